#!/usr/bin/env bash
# build.sh OUTPUT: builds main.go into the file OUTPUT, from Debian's golang-go and
# golang-github-containerd-stargz-snapshotter-dev alone.
set -euo pipefail
output=$(realpath --canonicalize-missing "$1")
cd "$(dirname "$0")"
export GO111MODULE=off GOTOOLCHAIN=local GOPATH=/usr/share/gocode GOFLAGS= CGO_ENABLED=0
# A compiler that collects no garbage is faster, and seldom needs that much memory.
export GOGC=off GOMEMLIMIT=2GiB
mkdir -p "$(dirname "$output")"
go build -trimpath -ldflags '-s -w' -o "$output.new" main.go
mv "$output.new" "$output"
