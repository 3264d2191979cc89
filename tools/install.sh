# Sourced by quickstart.sh, test.sh and docs.sh in the root of the project.
#   install STACK
# installs what requirements/STACK.txt pins: into .venv (onedl), .venv and .overlay/STACK
# (openmmlab, detection) or .docs (docs). It returns at once if the same files were installed
# before. PYTHON names the Python for .venv and .docs (3.10 or newer).

export PYTHONDONTWRITEBYTECODE=  # compile modules at their first import; most are never imported

install() {
    local wanted venv=.venv stamp=.venv/installed
    case $1 in
        onedl) ;;
        docs) venv=.docs stamp=.docs/installed ;;
        *)
            install onedl  # the other stacks use its torch
            stamp=.overlay/$1/installed
            ;;
    esac
    wanted=$(cat setup.py pyproject.toml "requirements/$1.txt" tools/install.sh; pwd)
    [[ ! -e $stamp || $(<"$stamp") != "$wanted" ]] || return 0
    if [[ ! -x $venv/bin/python ]]; then
        local check='import sys
if sys.version_info < (3, 10):
    sys.exit(f"beit_mm needs Python 3.10 or newer, this is {sys.version}: set PYTHON=…")'
        "${PYTHON:-python3}" -c "$check"
        "${PYTHON:-python3}" -m venv $venv
    fi
    echo "Installing the $1 stack (once; it may take minutes) …" >&2
    local pip=($venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile)
    pip+=(--constraint "requirements/$1.txt")
    if [[ $1 == onedl ]]; then
        "${pip[@]}" --editable '.[onedl,dev]'
    elif [[ $1 == docs ]]; then
        "${pip[@]}" --no-deps --requirement requirements/docs.txt
    else
        local packages=(mmengine mmcv-lite mmpretrain mmsegmentation)
        [[ $1 == openmmlab ]] || packages=(--requirement "requirements/$1.txt")
        rm -rf ".overlay/$1"
        "${pip[@]}" --target ".overlay/$1" --no-deps "${packages[@]}"
        rm -rf ".overlay/$1/tests"  # mmcv's tests would shadow ours
    fi
    echo "$wanted" >"$stamp"
}
