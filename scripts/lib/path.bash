# Which way from one version of Kong to another is supported: from patch to
# patch, from a minor version to the next, from a long-term one to the next.

readonly PATH_LTS=(2.8 3.4 3.10 3.14)
readonly PATH_LAST_OF_2=8

# path_next MINOR LIMIT: the farthest supported step that does not go beyond
# LIMIT, into REPLY; both are like 3.8.
path_next() {
    local from=$1 limit=$2 i

    for (( i = 0; i + 1 < ${#PATH_LTS[@]}; i++ )); do
        [[ ${PATH_LTS[i]} = "$from" ]] || continue
        version_compare "${PATH_LTS[i + 1]}" "$limit"
        if (( REPLY <= 0 )); then
            REPLY=${PATH_LTS[i + 1]}
            return
        fi
    done
    REPLY=${from%%.*}.$(( ${from#*.} + 1 ))
    [[ $from != "2.$PATH_LAST_OF_2" ]] || REPLY=3.0
}

# path_steps X Y: the supported way, into REPLY, like "3.5 3.6 3.7".
path_steps() {
    local x y at steps
    path_minor "$1"; x=$REPLY
    path_minor "$2"; y=$REPLY

    at=$x steps=$x
    # No way is as long as that; a version of the far future ends it.
    while [[ $at != "$y" && ${#steps} -lt 200 ]]; do
        path_next "$at" "$y"
        at=$REPLY
        steps+=" $at"
    done
    REPLY=$steps
}

path_minor() {
    [[ $1 =~ ^[0-9]+\.[0-9]+ ]]
    REPLY=${BASH_REMATCH[0]}
}

# path_hole X Y: why data planes of X can never work with the other side, or empty.
# Kong 3.1.0 and 3.1.1 spoke a protocol of their own.
path_hole() {
    REPLY=
    if path_is_hole "$1" && ! path_is_hole "$2"; then
        REPLY="DPs $1 speak a protocol that no other version has: bring X to 3.1.1.2 (Enterprise) first, or replace its DPs"
    elif path_is_hole "$2" && ! path_is_hole "$1"; then
        version_compare "$1" 3.0
        (( REPLY < 0 )) && REPLY="CP $2 speaks a protocol that DPs $1 do not have: choose another version than 3.1" || REPLY=
    fi
}

path_is_hole() {
    [[ $1 =~ ^3\.1\.(0|1)(\.[01])?$ ]]
}
