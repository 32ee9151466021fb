# The emulator in a container: docker build -t galaxy_mpi . && docker run --rm galaxy_mpi
FROM python:3.11.7-slim-bookworm

# Installed by the script that the tests exercise, into /opt/galaxy_mpi/.venv.
RUN useradd --create-home galaxy
COPY --chown=galaxy . /opt/galaxy_mpi
WORKDIR /opt/galaxy_mpi
USER galaxy
RUN sh launch/setup.sh

# What activation does. The two variables matter only to `docker run --user root`.
ENV PATH=/opt/galaxy_mpi/.venv/bin:$PATH \
    VIRTUAL_ENV=/opt/galaxy_mpi/.venv \
    OMPI_ALLOW_RUN_AS_ROOT=1 \
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

CMD ["mpirun", "-n", "32", "python", "-m", "galaxy_mpi.decode"]
