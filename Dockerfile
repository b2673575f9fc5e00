# The image of Entrepot: a stage that builds it, and one with only what it needs to run.
#
#   docker build --tag entrepot .
#
# Behind a corporate registry or CA, pass npm's configuration and a bundle of certificates to the build; neither is kept
# in the image:
#
#   docker build --tag entrepot --secret id=npmrc,src=$HOME/.npmrc --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt .
#
# BASE needs Node (20.19 or a later 20, or 22.14 or later), npm, and apt-get for the build. It is pinned by the digest of
# its index, so that equal sources make an equal image; for a newer Node, change tag and digest.
ARG BASE=node:24.21.0-trixie-slim@sha256:8ec5d7557396cfe32d21c3f9c13072355ceab22b584578ca4bb28af31120cffe

FROM ${BASE} AS build
# npm compiles the SQLite driver if there is no prebuilt binary for this Node.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 make g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Dependencies first: they change less often than the sources. Their scripts do not run, except that of the SQLite driver:
# `prepare` would build the program, whose sources are not here yet.
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \
 && npm ci --ignore-scripts --no-audit --no-fund \
 && JOBS=max npm rebuild better-sqlite3
COPY tsconfig.json build.ts code-cache.ts sample-image.ts ./
COPY src ./src
# All packages but the SQLite drivers are bundled into dist/. The drivers' sources and binaries for other systems are many
# times the size of what is used, so they are removed.
RUN npm run build \
 && mkdir -p /out/node_modules \
 && mv dist package.json /out \
 && cd node_modules \
 && rm -rf better-sqlite3*/deps better-sqlite3*/src better-sqlite3-napi/prebuilds/darwin-* better-sqlite3-napi/prebuilds/win32-* \
 && find better-sqlite3/build -type f ! -name better_sqlite3.node -delete \
 && find better-sqlite3* -type d -empty -delete \
 && mv better-sqlite3* bindings file-uri-to-path /out/node_modules

FROM ${BASE}
LABEL org.opencontainers.image.title="Entrepot" \
      org.opencontainers.image.description="A local OCI pull-through caching registry: mirror, air gap and private registry in one process." \
      org.opencontainers.image.licenses="Apache-2.0"
# The configuration is set here and not in CMD, so that `docker exec … entrepot images` uses the server's store.
ENV NODE_ENV=production \
    ENTREPOT_CONFIG=/etc/entrepot/container.yaml
COPY --from=build /out /app
COPY config/container.yaml /etc/entrepot/container.yaml
# A number, so that Kubernetes can see that it is not root. Entrepot writes only to /data.
RUN ln -s /app/dist/entrepot.cjs /usr/local/bin/entrepot \
 && mkdir /data \
 && chown 1000:1000 /data
USER 1000:1000
WORKDIR /data
VOLUME /data
EXPOSE 5000 5001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --start-interval=1s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:5001/readyz').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["entrepot"]
CMD ["serve"]
