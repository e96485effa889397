#!/usr/bin/env bash
# Writes the Go files beside the .proto files, with the plugins of the versions below and of go.mod.
# Without protoc (Debian: protobuf-compiler), or where a plugin cannot be had, it leaves them as they
# are, so that `make generate` works everywhere.
set -euo pipefail
cd "$(dirname "$0")"
if ! command -v protoc >/dev/null; then
	echo 'nebiusclient/pb: left as it is: protoc is not installed'
	exit 0
fi
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go
if ! GOBIN=$bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2; then
	echo 'nebiusclient/pb: left as it is: protoc-gen-go-grpc cannot be had'
	exit 0
fi
protoc --plugin="$bin/protoc-gen-go" --plugin="$bin/protoc-gen-go-grpc" \
	--go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative \
	$(find nebius -name '*.proto' | sort)
