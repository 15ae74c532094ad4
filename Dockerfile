# The image of token_service: compiled in one stage, shipped from scratch in the other, with the
# binary, the shared libraries that it names, CA certificates, the scripts, the licences and a list of
# what it was made of; no shell, no root. Only what every Docker Engine's builder understands is used,
# so that `docker build .` is enough. docs/containers.md says how it is run.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The tool that lists the crates; it is no part of the image, so it need not be fast.
RUN cargo install cargo-cyclonedx --version 0.5.9 --locked --debug --root /opt/cyclonedx

# The dependencies first, against an empty crate: this layer lasts until Cargo.toml or Cargo.lock
# change. Tests and benches that Cargo.toml names are not built, so their files are not needed; the
# tool asks for their dependencies all the same, and later steps shall need no network.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
 && echo 'fn main() {}' > src/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked \
 && cargo fetch --locked --target "$(rustc -vV | sed -n 's/^host: //p')"

# Cargo judges freshness by time stamps, and the context's may be older than the empty crate's build.
COPY scripts scripts
COPY src src
RUN find src scripts -type f -exec touch {} + \
 && cargo build --release --locked --offline --bin token_service

# The final image's file tree. It stays linked to glibc, since a static glibc cannot look up host
# names without the shared one beside it; glibc finds its name services and CA roots in /etc.
# Every file is dated SOURCE_DATE_EPOCH (seconds since 1970), so that two builds of one commit give
# the same files; what the compiler writes names no path but the stage's own.
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
# A script mounted over /scripts/default.rhai replaces the built-in one; --script still beats it.
ENV PATH=/usr/local/bin TOKEN_SERVICE_SCRIPT=/scripts/default.rhai
WORKDIR /
USER 65532:65532
# No CMD: a SIZE that stands there would beat TOKEN_SERVICE_SIZE and the configuration file.
ENTRYPOINT ["token_service"]

# What only the one who builds knows; empty where nobody says. A test holds the version against
# Cargo.toml's.
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
