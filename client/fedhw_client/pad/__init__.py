"""The pad: a page of this device on which its user writes, corrects and watches the experts."""
