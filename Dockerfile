# One image for agent, controller and waypoints: `docker build -t meshnode .`
# Debian 12 brings bcc as python3-bpfcc, which belongs to the distribution's Python 3.11. Its kernel
# headers serve any kernel: only user-space API contexts are read (docs/install.md).

FROM debian:12-slim AS build
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        gcc libc6-dev pkg-config libnghttp2-dev libssl-dev \
        python3 python3-dev python3-venv
WORKDIR /src
RUN python3 -m venv /opt/meshnode
COPY pyproject.toml setup.py README.md LICENSE ./
COPY agent agent
COPY bpf bpf
COPY controller controller
COPY installer installer
COPY mesh mesh
COPY waypoint waypoint
RUN /opt/meshnode/bin/pip install --no-cache-dir . \
    && /opt/meshnode/bin/python -m agent.cni.build /opt/meshnode/bin/meshnode-cni

FROM debian:12-slim
# libnghttp2 and libssl for the compiled engines, iproute2 and util-linux for `meshnode check`.
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        ca-certificates iproute2 kmod libnghttp2-14 libseccomp2 libssl3 linux-headers-amd64 \
        python3 python3-bpfcc util-linux \
    && rm -rf /var/lib/apt/lists/* \
    # Workers run as this user; the agent itself starts as root and gives what it can.
    && useradd --system --uid 65532 --no-create-home --shell /usr/sbin/nologin meshnode
COPY --from=build /opt/meshnode /opt/meshnode
RUN ln -s /usr/lib/python3/dist-packages/bcc \
        "$(/opt/meshnode/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/bcc" \
    && /opt/meshnode/bin/python -c 'from bcc import BPF' \
    && /opt/meshnode/bin/meshnode --version
# The root file system is read-only in a cluster.
ENV PATH=/opt/meshnode/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ENTRYPOINT ["meshnode"]
CMD ["--help"]
