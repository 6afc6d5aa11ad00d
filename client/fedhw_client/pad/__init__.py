"""The pad: a page on which the device's user writes, corrects and watches the experts."""
