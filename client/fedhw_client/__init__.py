"""The agent of a device, and the library with which apps call it.

>>> from fedhw_client import connect
>>> device = connect()  # connects with the first call
>>> device.close()
"""

from fedhw_client.connection import AgentMissingError, AsyncDevice, Device, connect, connect_async

__all__ = ["AgentMissingError", "AsyncDevice", "Device", "connect", "connect_async"]
