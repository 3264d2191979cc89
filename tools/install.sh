# Sourced by quickstart.sh, test.sh and docs.sh, from the root of the project: `install STACK` fills .venv, for STACK=openmmlab
# or detection also .overlay/STACK, for STACK=docs .docs alone, with what requirements/STACK.txt pins. It does nothing when it
# has done so for these files. PYTHON names the Python (3.10 or newer) to make .venv and .docs with.

export PYTHONDONTWRITEBYTECODE=  # a module is compiled when it is first imported, and kept: most of the 20 000 never are

install() {
    local wanted venv=.venv stamp=.venv/installed
    case $1 in
        onedl) ;;
        docs) venv=.docs stamp=.docs/installed ;;
        *)
            install onedl  # the others lie over its torch
            stamp=.overlay/$1/installed
            ;;
    esac
    wanted=$(cat setup.py pyproject.toml "requirements/$1.txt" tools/install.sh; pwd)
    [[ ! -e $stamp || $(<"$stamp") != "$wanted" ]] || return 0
    if [[ ! -x $venv/bin/python ]]; then
        "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"beit_mm needs Python 3.10 or newer, this is {sys.version}: name another with PYTHON=…")'
        "${PYTHON:-python3}" -m venv $venv
    fi
    echo "Installing the $1 stack (once; it may take minutes) …" >&2
    local pip=($venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint "requirements/$1.txt")
    if [[ $1 == onedl ]]; then
        "${pip[@]}" --editable '.[onedl,dev]'
    elif [[ $1 == docs ]]; then
        "${pip[@]}" --no-deps --requirement requirements/docs.txt
    else
        local packages=(mmengine mmcv-lite mmpretrain mmsegmentation)
        [[ $1 == openmmlab ]] || packages=(--requirement "requirements/$1.txt")
        rm -rf ".overlay/$1"
        "${pip[@]}" --target ".overlay/$1" --no-deps "${packages[@]}"
        rm -rf ".overlay/$1/tests"  # mmcv's own, in the way of ours
    fi
    echo "$wanted" >"$stamp"
}
