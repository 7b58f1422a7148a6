#!/usr/bin/env bash
# Installs the Java that the tests' OpenSearch needs, where there is none. Without it those tests skip, and say so.
set -uo pipefail
command -v java >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends default-jre-headless curl; } \
    >/dev/null 2>&1
fi
command -v java >/dev/null ||
  echo "no Java, and none could be installed (apt: default-jre-headless): the tests that need a real OpenSearch skip" >&2
exit 0
