# MetScope's images; targets: cpu (the default) and cuda, which serve the API, the worker and the set-up, and viewer:
# nginx with OHIF's files.
FROM node:22.19.0-bookworm-slim AS ohif
ARG OHIF=3.12.10
WORKDIR /ohif
COPY ohif/package.json ohif/fetch.sh ./
RUN ./fetch.sh $OHIF && mv viewers/$OHIF /viewer

FROM nginxinc/nginx-unprivileged:1.28.0-bookworm AS viewer
COPY --from=ohif /viewer /viewer
COPY --chmod=644 ohif/*.js /ohif/

FROM python:3.11.13-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MPLCONFIGDIR=/tmp/matplotlib
# A name for the user: some packages ask for it when they are imported.
RUN useradd --uid 1000 --home-dir /tmp metscope
WORKDIR /metscope
COPY requirements.txt ./

FROM base AS cuda
RUN pip install "$(grep '^torch==' requirements.txt)" --index-url https://download.pytorch.org/whl/cu130 \
    && pip install -r requirements.txt
COPY . .
RUN chmod -R a+rX .
USER 1000:1000

FROM base AS cpu
RUN pip install "$(grep '^torch==' requirements.txt)" --index-url https://download.pytorch.org/whl/cpu \
    && pip install -r requirements.txt
COPY . .
RUN chmod -R a+rX .
USER 1000:1000
