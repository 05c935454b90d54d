# Images of the server, for CPUs and for NVIDIA GPUs. https://docs.docker.com/reference/dockerfile/
#   docker build --target cpu  -t flexit:0.1.0-cpu  .
#   docker build --target cuda -t flexit:0.1.0-cuda .
# For a build that can be repeated, pin both bases by digest: --build-arg NODE_IMAGE=node:24-bookworm-slim@sha256:…
ARG NODE_IMAGE=node:24-bookworm-slim
ARG CUDA_IMAGE=nvidia/cuda:12.6.3-cudnn-runtime-ubuntu22.04

FROM ${NODE_IMAGE} AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund
COPY . .
RUN npx tsc --build

# The packages that the program needs to run, without binaries of other platforms.
FROM ${NODE_IMAGE} AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --no-audit --no-fund \
  && cd node_modules/onnxruntime-node/bin/napi-v6 \
  && rm -rf darwin win32 \
  && find linux -mindepth 1 -maxdepth 1 ! -name "$(node -p process.arch)" -exec rm -r {} +

# The CUDA provider is no part of the npm package; its own script fetches it.
FROM packages AS cuda-packages
RUN ONNXRUNTIME_NODE_INSTALL=cuda12 node node_modules/onnxruntime-node/script/install.js

FROM scratch AS app
WORKDIR /app
COPY bin bin
COPY models models
COPY proto proto
COPY package.json LICENSE THIRD-PARTY-NOTICES.md ./
COPY --from=build /app/dist dist

FROM ${NODE_IMAGE} AS cpu
COPY --from=packages /app /app
COPY --from=app /app /app
RUN install -d -o 10001 -g 10001 /var/cache/flexit /var/lib/flexit
ENV NODE_ENV=production \
  FLEXIT_HOST=0.0.0.0 XDG_CACHE_HOME=/var/cache XDG_DATA_HOME=/var/lib
WORKDIR /app
USER 10001:10001
EXPOSE 50051 9464
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m CMD ["node", "bin/flexit.js", "health"]
ENTRYPOINT ["node", "/app/bin/flexit.js"]
CMD ["serve"]

FROM ${NODE_IMAGE} AS node

FROM ${CUDA_IMAGE} AS cuda
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=cuda-packages /app /app
COPY --from=app /app /app
RUN install -d -o 10001 -g 10001 /var/cache/flexit /var/lib/flexit
ENV NODE_ENV=production \
  FLEXIT_HOST=0.0.0.0 XDG_CACHE_HOME=/var/cache XDG_DATA_HOME=/var/lib
ENV FLEXIT_DEVICE=cuda:0
WORKDIR /app
USER 10001:10001
EXPOSE 50051 9464
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m CMD ["node", "bin/flexit.js", "health"]
ENTRYPOINT ["node", "/app/bin/flexit.js"]
CMD ["serve"]
