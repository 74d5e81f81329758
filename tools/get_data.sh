#!/usr/bin/env bash
# Print the value of a chapter's parameter `data`: the folder DATA if it is set; otherwise FOLDER, into
# which the .tar.gz at the https address DATA_URL is unpacked; otherwise "embedded".
# Usage: tools/get_data.sh FOLDER. The address may be a secret, so it is never printed.
set -euo pipefail
folder=$1

if [[ -n ${DATA:-} ]]; then
    [[ -d $DATA ]] || { echo "get_data: there is no folder $DATA on this machine" >&2; exit 1; }
    echo "$DATA"
elif [[ -n ${DATA_URL:-} ]]; then
    mkdir -p "$folder"
    curl --fail --silent --location --proto =https --retry 3 --output "$folder.tar.gz" \
        --config - <<<"url = \"$DATA_URL\"" || { echo "get_data: the download failed" >&2; exit 1; }
    tar -xzf "$folder.tar.gz" -C "$folder" --no-same-owner
    rm "$folder.tar.gz"
    echo "$folder"
else
    echo embedded
fi
