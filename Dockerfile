# The emulator in a container: docker build -t galaxy_mpi . && docker run --rm galaxy_mpi
#
# The base is fixed by the digest of its index, which has all platforms; the tag before it is for readers. That of
# another: docker buildx imagetools inspect TAG, then docker build --build-arg BASE=TAG@sha256:... -t galaxy_mpi .
ARG BASE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# The first stage has a C compiler, for the compiled codec; what runs has none.
FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# Installed by the script that the tests exercise, into /opt/galaxy_mpi/.venv.
COPY . /opt/galaxy_mpi
WORKDIR /opt/galaxy_mpi
RUN sh launch/setup.sh && .venv/bin/python -c "import galaxy_mpi.dtypes._compiled" && rm -rf build

FROM ${BASE}
RUN useradd --create-home galaxy
COPY --from=build --chown=galaxy /opt/galaxy_mpi /opt/galaxy_mpi
WORKDIR /opt/galaxy_mpi
USER galaxy

# What activation does. The two variables matter only to `docker run --user root`.
ENV PATH=/opt/galaxy_mpi/.venv/bin:$PATH \
    VIRTUAL_ENV=/opt/galaxy_mpi/.venv \
    OMPI_ALLOW_RUN_AS_ROOT=1 \
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

CMD ["mpirun", "-n", "32", "python", "-m", "galaxy_mpi.decode"]
