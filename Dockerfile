# The image of token_service. One stage compiles; the final stage starts from scratch and contains the
# binary, its shared libraries, CA certificates, the scripts, the licences and a list of crates. It has no
# shell and no root user. The file uses only instructions that every Docker Engine understands, so
# `docker build .` is enough. docs/containers.md explains how to run the image.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The tool that lists the crates. It is not part of the image, so a debug build is enough.
RUN cargo install cargo-cyclonedx --version 0.5.9 --locked --debug --root /opt/cyclonedx

# Compile the dependencies first, against an empty crate: this layer is cached until Cargo.toml or
# Cargo.lock change. Tests and benches are not built, so their files are not needed. The tool above reads
# their dependencies, so fetch all of them: later steps run without a network.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
 && echo 'fn main() {}' > src/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked \
 && cargo fetch --locked --target "$(rustc -vV | sed -n 's/^host: //p')"

# Cargo compares time stamps, and those of the context may be older than the build of the empty crate.
COPY build.rs ./
COPY scripts scripts
COPY src src
RUN find src scripts -type f -exec touch {} + \
 && cargo build --release --locked --offline --bin token_service

# The file tree of the final image. The binary is linked dynamically, because a static glibc cannot resolve
# host names without the shared one. glibc reads its name services and CA roots from /etc. Every file has the
# date SOURCE_DATE_EPOCH (seconds since 1970), so two builds of one commit give identical files.
COPY LICENSE-MIT LICENSE-APACHE ./
ARG SOURCE_DATE_EPOCH=0
RUN mkdir -p /image/etc/ssl/certs /image/usr/local/bin /image/usr/share/doc/token_service /image/scripts \
 && cp target/release/token_service /image/usr/local/bin/ \
 && ldd target/release/token_service | grep -o '/[^ ]*' | xargs -I LIB cp -L --parents LIB /image \
 && cp -L /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && cp -r scripts/. /image/scripts/ \
 && CARGO_NET_OFFLINE=true SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" PATH="/opt/cyclonedx/bin:$PATH" \
    cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps \
 && cp token_service_bin.cdx.json /image/usr/share/doc/token_service/sbom.cdx.json \
 && cp LICENSE-MIT LICENSE-APACHE /image/usr/share/doc/token_service/ \
 && chmod -R a+rX,go-w /image \
 && mkdir -m 1777 /image/tmp \
 && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
 && echo 'token_service:x:65532:65532::/:/nonexistent' > /image/etc/passwd \
 && echo 'token_service:x:65532:' > /image/etc/group \
 && find /image -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

FROM scratch
COPY --from=build /image/ /
# A script mounted over /scripts/default.rhai replaces the built-in one. --script has precedence.
ENV PATH=/usr/local/bin TOKEN_SERVICE_SCRIPT=/scripts/default.rhai
WORKDIR /
USER 65532:65532
# No CMD: a SIZE there would have precedence over TOKEN_SERVICE_SIZE and the configuration file.
ENTRYPOINT ["token_service"]

# Labels that only the caller of the build knows; empty by default. A test compares the version with
# Cargo.toml.
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="token_service" \
      org.opencontainers.image.description="Fetches secret tokens, stores each in its own PostgreSQL transaction, reports every one" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED" \
      org.opencontainers.image.source="$SOURCE"
