# syntax=docker/dockerfile:1

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

# glibc, libgcc, authorities and a user without rights; no shell and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="wsgate" \
      org.opencontainers.image.description="A WebSocket edge proxy and sidecar" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /src/target/release/wsgate /wsgate
# `nonroot` by its number, so that Kubernetes' runAsNonRoot can tell.
USER 65532:65532
EXPOSE 8443
STOPSIGNAL SIGTERM
ENTRYPOINT ["/wsgate"]
CMD ["run", "--config", "/etc/wsgate/wsgate.toml"]
