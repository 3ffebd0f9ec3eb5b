#!/bin/sh
# The real runtime, but for checkpoint and restore, which need CRIU and with it a kernel that not
# every machine has. For a shim these do the same: an image is a directory with a file in it, a
# checkpointed container is gone unless it was to run on, and a restored one is a new one that runs.
me=${0%/*}
read -r real <"$me/real"
printf '%s\n' "$*" >>"$me/calls"

op='' image='' work='' bundle='' pid_file='' console='' leave='' id='' before='' globals='' pivot=''
for word; do
    case $before in
    --image-path) image=$word ;;
    --work-path) work=$word ;;
    --bundle) bundle=$word ;;
    --pid-file) pid_file=$word ;;
    --console-socket) console=$word ;;
    esac
    case $op$word in
    checkpoint | restore) op=$word ;;
    checkpoint--leave-running) leave=yes ;;
    restore--no-pivot) pivot=--no-pivot ;;
    esac
    [ -n "$op" ] || globals="$globals $word"
    before=$word id=$word
done
[ -n "$op" ] || exec "$real" "$@"

# Globals are split on purpose: no path here has a space.
# shellcheck disable=SC2086
real() { "$real" $globals "$@"; }
log() { printf '%s\n' "$globals" | sed 's/.*--log \([^ ]*\).*/\1/'; }
# As runc does it: two lines, the second of which names CRIU's log.
broken() {
    printf '{"level":"error","msg":"criu failed: type NOTIFY errno 0\\nlog file: %s"}\n' "$1" >>"$(log)"
    exit 1
}
gate() {
    : >"$me/reached"
    read -r _ <"$me/open"
}
# The one above it has to be there, as for runc.
[ -d "$work" ] || mkdir "$work" || exit 1

case $op in
checkpoint)
    echo "a dump" >"$work/dump.log"
    # What the test wants to happen in the middle.
    [ -e "$me/during-checkpoint" ] && . "$me/during-checkpoint"
    mkdir -p "$image"
    real state "$id" >"$image/inventory.img" || broken "$work/dump.log"
    [ -n "$leave" ] || {
        real resume "$id" 2>/dev/null
        real kill "$id" KILL
        real delete --force "$id"
    }
    echo "done checkpoint" >>"$me/calls"
    ;;
restore)
    [ -e "$me/during-restore" ] && . "$me/during-restore"
    [ -e "$image/inventory.img" ] || broken "$work/restore.log"
    # shellcheck disable=SC2086
    real create --bundle "$bundle" --pid-file "$pid_file" \
        ${console:+--console-socket "$console"} $pivot "$id" || exit
    real start "$id" || exit
    echo "done restore" >>"$me/calls"
    ;;
esac
