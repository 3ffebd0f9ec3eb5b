#!/bin/sh
# A runtime that misbehaves where it is told to. The file beside this script that is named after a
# subcommand holds the fault; without one this is the real runtime.
me=${0%/*}
read -r real <"$me/real"
# The mark by which the census finds what this leaves behind; it is read where a program begins.
if [ -z "$COTTER_TEST" ]; then
    read -r COTTER_TEST <"$me/mark"
    export COTTER_TEST
    exec "$0" "$@"
fi

op='' root='' log='' pid_file='' id='' before=''
for word; do
    case $before in
    --root) root=$word ;;
    --log) log=$word ;;
    --pid-file) pid_file=$word ;;
    esac
    case $op$word in create | start | exec | kill | delete | checkpoint | restore) op=$word ;; esac
    before=$word id=$word
done

here() { : >"$me/$op.here"; }
hold() {
    here
    read -r _ <"$me/gate-$fault"
}
print() {
    head -c "$1" /dev/zero | tr '\0' o
    head -c "$1" /dev/zero | tr '\0' e >&2
}
say() { printf '{"level":"error","msg":"%s"}\n' "$1" >>"$log"; }

fault=''
[ -e "$me/$op" ] && read -r fault <"$me/$op"
case $fault in
'') exec "$real" "$@" ;;
slow-before)
    hold
    exec "$real" "$@"
    ;;
slow-after)
    "$real" "$@"
    status=$?
    hold
    exit $status
    ;;
said)
    say 'it broke on purpose'
    exit 1
    ;;
silent) exit 7 ;;
garbage)
    printf 'text\n\377\376{"level":"error"' >>"$log"
    exit 1
    ;;
killed-before) kill -9 $$ ;;
killed-after)
    "$real" "$@"
    kill -9 $$
    ;;
# Its helper goes on without it.
killed-ahead)
    (
        hold
        exec "$real" "$@"
    ) &
    while [ ! -e "$me/$op.here" ]; do sleep 0.01; done
    kill -9 $$
    ;;
after)
    "$real" "$@"
    say 'it broke after the work'
    exit 1
    ;;
half)
    mkdir -p "$root/$id"
    say 'it broke half-way'
    exit 1
    ;;
prints=*)
    print "${fault#prints=}"
    exec "$real" "$@"
    ;;
# Not at once, so that it is looked at meanwhile.
prints-fails=*)
    print "${fault#prints-fails=}"
    sleep 0.5
    say 'it broke on purpose'
    exit 1
    ;;
# It returns when what it has started has ended.
until-end)
    "$real" "$@" || exit
    read -r pid <"$pid_file"
    while [ -e "/proc/$pid" ]; do sleep 0.01; done
    ;;
nothing) exit 0 ;;
no-pid)
    "$real" "$@" || exit
    rm -f "$pid_file"
    ;;
slow-no-pid)
    hold
    "$real" "$@" || exit
    rm -f "$pid_file"
    ;;
pid=*)
    "$real" "$@" || exit
    printf %s "${fault#pid=}" >"$pid_file"
    ;;
after-pid=*)
    "$real" "$@" || exit
    printf %s "${fault#after-pid=}" >"$pid_file"
    say 'it broke after the work'
    exit 1
    ;;
# Its process is over and reaped, and when this returns another has had, or has, its number: one that
# this made, is the shim's child too, and ends with 99.
recycled=*)
    "$real" "$@" || exit
    read -r pid <"$pid_file" || [ -n "$pid" ]
    [ "$op" = exec ] || kill -9 "$pid"
    while [ -e "/proc/$pid" ]; do sleep 0.01; done
    # Births are told in hundredths of a second.
    sleep 0.1
    stranger='exit 99'
    [ "$fault" = recycled=living ] && stranger='exec sleep 1000'
    until (
        echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid
        sh -c "$stranger" </dev/null >/dev/null 2>&1 &
        [ "$!" = "$pid" ] || ! kill -9 $!
    ); do :; done
    if [ "$fault" = recycled=ended ]; then
        while [ -e "/proc/$pid" ]; do sleep 0.01; done
    fi
    ;;
# With a child that holds the standard streams.
hang)
    sleep 1000 &
    here
    wait
    ;;
hang-after)
    "$real" "$@"
    sleep 1000 &
    here
    wait
    ;;
# At a disk that does not answer, which not even SIGKILL ends: the runtime itself, or its child.
stuck=*)
    here
    exec cat "${fault#stuck=}"
    ;;
stuck-child=*)
    here
    cat "${fault#stuck-child=}"
    exit 1
    ;;
# The container, whose processes it leaves.
forgets) rm -rf "${root:?}/$id" ;;
stop)
    here
    kill -STOP $$
    exec "$real" "$@"
    ;;
# Wherever it is by then; it may be done.
stop-within)
    "$real" "$@" &
    sleep 0.005
    kill -STOP $!
    here
    wait
    sleep 1000
    ;;
stop-after)
    "$real" "$@"
    here
    kill -STOP $$
    exit 1
    ;;
*)
    say "no such fault: $fault"
    exit 99
    ;;
esac
