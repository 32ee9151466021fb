"""Checks whether this computer can run the emulator, with remedies."""

from galaxy_mpi.health.finding import Finding, Level
from galaxy_mpi.health.host import host_findings
from galaxy_mpi.health.launch import launch_findings
from galaxy_mpi.health.network import network_findings
from galaxy_mpi.health.software import software_findings

__all__ = [
    "Finding",
    "Level",
    "host_findings",
    "launch_findings",
    "network_findings",
    "software_findings",
]
