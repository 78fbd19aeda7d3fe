# Tollhouse as an image. `docker build .` makes `slim`, which has a shell; `docker build --target small .` makes the smaller one, which has
# neither shell nor package manager. README.md, "The image and releases", says what they weigh and how they are run.
#
# The rule a reader could break: both bases have the same minor version of Python as the stage `build`, whose compiled packages they get.
# Pin a base for good by its digest: --build-arg SLIM=python:3.13-slim@sha256:...
ARG SLIM=python:3.13-slim
ARG SMALL=gcr.io/distroless/python3-debian13:nonroot

FROM ${SLIM} AS build
# Unpinned: it only strips, and Debian keeps no old versions.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements.lock ./
# Whole hashes, wheels only: no code of a package runs here. Symbols are most of uvloop and simdjson; C and Cython sources are no use to
# anybody without a compiler. A package's metadata stays, by which scanners know it.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /build/pip \
    && /build/pip/bin/pip install --require-hashes --only-binary :all: --no-compile --target /out -r requirements.lock \
    && find /out -name '*.so*' -exec strip --strip-unneeded {} + \
    && find /out -type f -regex '.*\.\(c\|h\|cpp\|pyx\|pxd\|pxi\|pyi\)' -delete \
    && rm -rf /out/bin /out/*/tests
COPY LICENSE /out/
COPY proxy /out/proxy
COPY policies /out/policies
# By the sources' hashes, unchecked: whatever a copy does to a file's time, nothing is compiled again at a start.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /out
COPY .ci/image.py ./

# The two targets are alike but for their base; tests/image/test_dockerfile.py holds them together.
FROM ${SMALL} AS small
COPY --from=build /out /opt/tollhouse
USER 0
RUN --mount=type=bind,from=build,source=/build,target=/build ["python3", "/build/image.py"]
USER 65532:65532
ENV TOLLHOUSE_STATE_DIR=/var/lib/tollhouse
VOLUME /var/lib/tollhouse
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["tollhouse", "healthcheck"]
ENTRYPOINT ["tollhouse"]
CMD ["serve"]
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Tollhouse" \
      org.opencontainers.image.description="A reverse-proxy sidecar for LLM APIs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"

FROM ${SLIM} AS slim
COPY --from=build /out /opt/tollhouse
USER 0
RUN --mount=type=bind,from=build,source=/build,target=/build ["python3", "/build/image.py"]
USER 65532:65532
ENV TOLLHOUSE_STATE_DIR=/var/lib/tollhouse
VOLUME /var/lib/tollhouse
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["tollhouse", "healthcheck"]
ENTRYPOINT ["tollhouse"]
CMD ["serve"]
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Tollhouse" \
      org.opencontainers.image.description="A reverse-proxy sidecar for LLM APIs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
