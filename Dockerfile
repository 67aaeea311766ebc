# syntax=docker/dockerfile:1

# docker build -t wsgate --build-arg REVISION=$(git rev-parse HEAD) .
# docker run -p 8443:8443 -v "$PWD/my-folder:/etc/wsgate:ro" wsgate

# The tag is the toolchain of rust-toolchain.toml, which stays outside so that nothing is fetched
# again. The full image has what C and assembly of aws-lc and jemalloc want: gcc and make.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src

# Dependencies first, in a layer that only the manifest and the lock file change. The benches are
# here because the manifest names their files.
COPY Cargo.toml Cargo.lock ./
COPY benches benches
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin wsgate

# The empty program above is newer than these files, so cargo must be told that they changed.
COPY src src
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin wsgate

# glibc and libgcc of the same Debian, authorities, and a user without rights; no shell and no
# package manager, and nothing that must be kept up to date but these.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG REVISION=unknown
LABEL org.opencontainers.image.title="wsgate" \
      org.opencontainers.image.description="A WebSocket edge: TLS, policy, sticky upstreams and liveness in front of your app servers" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"
COPY LICENSE-MIT LICENSE-APACHE /licenses/
COPY --from=build /src/target/release/wsgate /wsgate
# `nonroot` by its number, so that Kubernetes' runAsNonRoot can tell.
USER 65532:65532
EXPOSE 8443
# The first SIGTERM drains. Give it time: `docker stop -t 40`, or `run --grace` with the time there is.
STOPSIGNAL SIGTERM
# No HEALTHCHECK: who can act on one asks /readyz and /healthz on the address of `[admin] probes`.
ENTRYPOINT ["/wsgate"]
CMD ["run", "--config", "/etc/wsgate/wsgate.toml"]
