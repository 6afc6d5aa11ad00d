"""The device: the agent that lives beside a person's apps, and the library by which they reach it.

>>> from fedhw_client import connect
>>> device = connect()  # nobody is called before the first question
>>> device.close()
"""

from fedhw_client.connection import AgentMissingError, AsyncDevice, Device, connect, connect_async

__all__ = ["AgentMissingError", "AsyncDevice", "Device", "connect", "connect_async"]
