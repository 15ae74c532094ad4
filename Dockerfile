# The image of token_service: compiled in one stage, shipped from scratch in the other, with the
# binary, the shared libraries that it names, CA certificates and the scripts; no shell, no root.
# Only what every Docker Engine's builder understands is used, so that `docker build .` is enough.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies first, against an empty crate: this layer lasts until Cargo.toml or Cargo.lock
# change. Tests and benches that Cargo.toml names are not built, so their files are not needed.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
 && echo 'fn main() {}' > src/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked

# Cargo judges freshness by time stamps, and the context's may be older than the empty crate's build.
COPY scripts scripts
COPY src src
RUN find src scripts -type f -exec touch {} + \
 && cargo build --release --locked --bin token_service

# The final image's file tree. It stays linked to glibc, since a static glibc cannot look up host
# names without the shared one beside it; glibc finds its name services and CA roots in /etc.
RUN mkdir -p /image/etc/ssl/certs /image/usr/local/bin /image/scripts \
 && cp target/release/token_service /image/usr/local/bin/ \
 && ldd target/release/token_service | grep -o '/[^ ]*' | xargs -I LIB cp -L --parents LIB /image \
 && cp -L /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && cp -r scripts/. /image/scripts/ \
 && chmod -R a+rX /image \
 && mkdir -m 1777 /image/tmp \
 && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
 && echo 'token_service:x:65532:65532::/:/nonexistent' > /image/etc/passwd \
 && echo 'token_service:x:65532:' > /image/etc/group

FROM scratch
LABEL org.opencontainers.image.title="token_service" \
      org.opencontainers.image.description="Fetches secret tokens, stores each in its own PostgreSQL transaction, reports every one" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /image/ /
# A script mounted over /scripts/default.rhai replaces the built-in one; --script still beats it.
ENV PATH=/usr/local/bin TOKEN_SERVICE_SCRIPT=/scripts/default.rhai
WORKDIR /
USER 65532:65532
ENTRYPOINT ["token_service"]
CMD ["5"]
