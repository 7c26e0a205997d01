#!/usr/bin/env bash
# Build with Debian's jars into build/: the stubs, the classes, and a script that runs them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

mkdir -p build/stubs build/classes
protoc -I ../.. --java_out=build/stubs --grpc-java_out=build/stubs \
    --plugin=protoc-gen-grpc-java="$(command -v grpc_java_plugin)" inference.proto

JARS=(
    grpc-{api,context,core,netty,protobuf,protobuf-lite,stub} protobuf gson guava
    # What those need when they run.
    netty-{buffer,codec,codec-http,codec-http2,common,handler,resolver,tcnative,transport}
    perfmark-{api,impl} jctools-core opencensus-api geronimo-annotation-1.3-spec
)
CLASSPATH="$PWD/build/classes$(printf ':/usr/share/java/%s.jar' "${JARS[@]}")"
javac -d build/classes -cp "$CLASSPATH" $(find build/stubs -name '*.java') Classify.java

# TLS: Debian's netty does it with OpenSSL only, through a library that it seeks under another name than Debian's.
mkdir -p build/native
cp /usr/lib/*/jni/libnetty-tcnative.so build/native/libnetty_tcnative.so

printf '#!/bin/sh\nexec java -Djava.library.path="%s" -cp "%s" Classify "$@"\n' "$PWD/build/native" "$CLASSPATH" \
    >build/classify
chmod +x build/classify
