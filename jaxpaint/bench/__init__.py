"""What a plan costs on a device, that is here or not: shapes, kinds of devices, programs compiled for them, figures."""
