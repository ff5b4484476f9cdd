"""Data sets, networks, BN sites and one training run. Neither Ray nor DuckDB is needed here.

    images.py          what a data set is: uint8 arrays with a fixed split
    datasets.py        data sets by name: load, shape, fingerprint
    builtin.py         digits (shipped) and CIFAR (through torchvision)
    parquet_images.py  images in Parquet files, Hugging Face layout
    image_folder.py    images in one folder per class
    decoding.py        JPEG and PNG bytes to arrays, with limits
    models.py          the networks, by name
    layout.py          the built-in ones on paper: sites and sizes without torch
    external.py        networks of torchvision and of one's own
    initial.py         initial values, one stream per parameter
    sites.py           BN sites of any network: find, place, fold
    schedules.py       learning rates
    batches.py         batches and augmentation on the device
    probes.py          gradient noise, smoothness, eq. 9, measured on the way
    trainer.py         one training run
    resume.py          what a training run leaves behind to go on later
    checkpoint.py      a network as safetensors bytes
    streams.py         random numbers by name

Specs come in as frozen objects with the fields of `bnsweep.experiment.spec`; pydantic is not imported here.
"""
