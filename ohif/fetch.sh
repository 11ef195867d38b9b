#!/bin/sh
# ./fetch.sh [VERSION ...]: the viewers of package.json, all or those named, as the OHIF project publishes them, into
# viewers/VERSION. What is there is not fetched again.
set -eu
cd "$(dirname "$0")"
node -p 'Object.entries(require("./package.json").viewers).map(one => one.join(" ")).join("\n")' |
while read -r version integrity; do
    case " $* " in "  " | *" $version "*) ;; *) continue ;; esac
    [ -e "viewers/$version/index.html" ] && continue
    echo "setup: OHIF $version"
    mkdir -p viewers
    work=$(mktemp -d viewers/fetch.XXXXXX)
    npm pack "@ohif/app@$version" --silent --pack-destination "$work" >/dev/null
    sum=$(node -e '
        const hash = require("crypto").createHash("sha512")
        console.log("sha512-" + hash.update(require("fs").readFileSync(process.argv[1])).digest("base64"))
    ' "$work"/*.tgz)
    if [ "$sum" != "$integrity" ]; then
        echo "setup: OHIF $version is not the file that package.json names" >&2
        exit 1
    fi
    tar -xzf "$work"/*.tgz -C "$work"
    # Half of it are source maps.
    find "$work/package/dist" -name '*.map' -delete
    # The archive dates all of them 1985, and a browser tells by the date whether a file has changed.
    find "$work/package/dist" -type f -exec touch {} +
    rm -rf "viewers/$version"
    mv "$work/package/dist" "viewers/$version"
    rm -rf "$work"
done
