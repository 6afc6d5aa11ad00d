# syntax=docker/dockerfile:1
# The coordinator. From the root of the repository:
#   docker build --file deploy/docker/coordinator.Dockerfile --tag fedhw-coordinator .
FROM python:3.11-slim

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# torch has a layer of its own, which a change of fedhw leaves alone; and it is the CPU's, from the
# index that holds no other, since the registry's carries CUDA.
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /constraints.txt --index-url https://download.pytorch.org/whl/cpu torch

RUN --mount=type=bind,target=/source,rw \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /source/constraints.txt '/source[server]'

RUN useradd --uid 10001 --create-home --home-dir /var/lib/fedhw-server fedhw \
    && chmod 700 /var/lib/fedhw-server
USER 10001:10001
ENV HOME=/var/lib/fedhw-server FEDHW_SERVER_HOME=/var/lib/fedhw-server
WORKDIR /var/lib/fedhw-server
VOLUME /var/lib/fedhw-server

# Statistics and enrolment, Flower, metrics. The last is not for the internet.
EXPOSE 9470 9471 9472
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD \
    ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9472/healthz', timeout=4)"]
ENTRYPOINT ["fedhw", "server"]
CMD ["--host", "0.0.0.0", "--metrics-host", "0.0.0.0"]
