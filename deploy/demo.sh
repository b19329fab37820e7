#!/bin/sh
# What `make demo` shows, on the fleet of `muster dev --agents 8`. Every command is real, and one that ends with
# another status than expected ends the demo as failed.
set -u

# show STATUS TEXT LINE: says what it shows, types the line, runs it.
show() {
    printf '\n# %s\n$ %s\n' "$2" "$3"
    status=0
    eval "$3" || status=$?
    if [ "$status" -ne "$1" ]; then
        printf 'demo: that ended with status %s, not %s\n' "$status" "$1" >&2
        exit 1
    fi
}

show 0 "Eight agents, each a process of its own, each over mutual TLS." \
    "muster agents"
show 0 "One command on all of them: several words are run as they are, without a shell." \
    "muster run -w all -- uname -sr"
show 0 "Answers come as they are ready, not in the order of the hosts. One word is a shell line." \
    "muster run -w all 'sleep 0.\$(( \${MUSTER_HOST#dev-} * 5 % 8 )); echo I am done'"
show 0 "Two at a time, and without some." \
    "muster run -w env=dev -x 'dev-[7-8]' -f 2 'sleep 0.2; echo slot by slot'"
show 1 "One fails. The last line names it and adds up; the exit status says that not all went well." \
    "muster run -w all 'test \$MUSTER_HOST != dev-3 || { echo no space left >&2; exit 3; }; echo fine'"
show 0 "What was that? Everything is kept." \
    "muster jobs"
show 2 "A name that nobody bears is an error: never all hosts, never none." \
    "muster run -w dve-1 -- true"

printf '\n# That was the demo. A fleet to play with: muster dev --agents 8\n'
