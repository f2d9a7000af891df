# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Packages of another Debian suite than the system's, and source packages: from an apt configuration of
# their own in the cache, so that the system's stays as it is. Part of parts.sh.

STEP_SOURCES+=' apt.sh'

APT_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

apt_codename() {
    (. /etc/os-release && printf '%s' "$VERSION_CODENAME")
}

# Prints the system's own apt sources for this release, one paragraph each, in deb822's form.
apt_system_stanzas() {
    local codename file
    codename=$(apt_codename)
    for file in /etc/apt/sources.list.d/*.sources; do
        [[ -f $file ]] || continue
        # Paragraphs for this release only; other vendors' archives need not have what is asked for.
        awk -v codename="$codename" 'BEGIN{RS = ""; FS = "\n"}
            {
                ours = 1; text = ""
                for (i = 1; i <= NF; i++) {
                    line = $i
                    if (line ~ /^[Ee]nabled: *no/) ours = 0
                    if (line ~ /^Suites:/) {
                        n = split(line, suite, /[ \t]+/)
                        for (j = 2; j <= n; j++)
                            if (suite[j] != "" && suite[j] !~ "^" codename "(-[a-z]+)?(/updates)?$") ours = 0
                    }
                    if (line !~ /^#/) text = text line "\n"
                }
                if (ours) print text
            }' "$file"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [[ -f $file ]] || continue
        sed -nE "s/^deb[[:space:]]+(\[([^]]*)\][[:space:]]+)?([^[:space:]]+)[[:space:]]+($codename(-[a-z]+)?(\/updates)?)[[:space:]]+(.*)/\2|\3|\4|\7/p" "$file" |
            while IFS='|' read -r options uri suite components; do
                printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\n' "$uri" "$suite" "$components"
                # The options of a line have other names there: [signed-by=FILE arch=amd64].
                tr ' ' '\n' <<<"$options" | sed -nE 's/^signed-by=/Signed-By: /p; s/^arch=/Architectures: /p; s/^trusted=/Trusted: /p'
                echo
            done
    done
}

# Prints the mirror that the system takes its release from.
apt_mirror() {
    apt_system_stanzas | awk -v codename="$(apt_codename)" '
        /^URIs:/ { uri = $2 }
        /^Suites:/ { for (i = 2; i <= NF; i++) if ($i == codename) found = 1 }
        /^$/ { if (found) { print uri; exit } uri = "" }'
}

# Prints the options of apt's programs for SUITE: "system" is the system's own release.
apt_options() {
    local apt=$CACHE/work/apt/$1
    printf '%s\n' -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/parts" -o "Dir::State::lists=$apt/lists" \
        -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3
}

# apt_update SUITE: makes the configuration for SUITE and gets its lists.
apt_update() {
    local suite=$1 apt=$CACHE/work/apt/$1 mirror options
    mkdir -p "$apt/parts" "$apt/lists/partial" "$apt/cache/archives/partial"
    if [[ $suite = system ]]; then
        apt_system_stanzas | sed 's/^Types:.*/Types: deb deb-src/' >"$apt/parts/suite.sources"
    else
        mirror=$(apt_mirror)
        [[ -f $APT_KEYRING ]] || { echo "error: $APT_KEYRING is missing (package debian-archive-keyring)"; return 1; }
        [[ -z $mirror ]] || printf '%s\n' 'Types: deb deb-src' "URIs: $mirror" "Suites: $suite" 'Components: main' \
            "Signed-By: $APT_KEYRING" >"$apt/parts/suite.sources"
    fi
    [[ -s $apt/parts/suite.sources ]] || { echo "error: no apt source for $(apt_codename) found in /etc/apt"; return 1; }
    mapfile -t options < <(apt_options "$suite")
    apt-get "${options[@]}" -o APT::Update::Error-Mode=any update && touch "$apt/updated"
}

# apt_fresh SUITE: afterwards its lists are of today. Without a network older ones do, which it says.
apt_fresh() {
    local suite=$1 updated=$CACHE/work/apt/$1/updated
    [[ -z $(find "$updated" -mmin -1440 2>/dev/null) ]] || return 0
    with_lock "apt-$suite" apt_refresh "$suite"
}

apt_refresh() {
    local suite=$1 log=$LOGS/apt-$1.log
    [[ -z $(find "$CACHE/work/apt/$suite/updated" -mmin -1440 2>/dev/null) ]] || return 0
    apt_update "$suite" >"$log" 2>&1 </dev/null && return
    [[ -e $CACHE/work/apt/$suite/updated ]] || {
        say "[apt $suite] failed: $(error_line "$log"); log: $(show_path "$log")"
        return 1
    }
    say "[apt $suite] no new lists ($(error_line "$log")); those of $(date -r "$CACHE/work/apt/$suite/updated" +%F) are used"
}

# apt_names SUITE REGEX prints the packages of SUITE whose whole name matches the extended REGEX.
apt_names() {
    local options
    mapfile -t options < <(apt_options "$1")
    # What the system has installed has a name here, too, and no version to download.
    apt-cache "${options[@]}" -o Dir::State::status=/dev/null pkgnames | grep -xE "$2" | sort -V
}

# apt_version SUITE PACKAGE prints the version of PACKAGE that SUITE has, or nothing.
apt_version() {
    local options
    mapfile -t options < <(apt_options "$1")
    apt-cache "${options[@]}" -o Dir::State::status=/dev/null madison "$2" | awk -F' *[|] *' '$3 !~ / Sources$/{print $2; exit}'
}

# apt_download SUITE FOLDER PACKAGE... downloads packages, without what they depend on, into FOLDER. A mirror
# that has thrown away what old lists name is asked again with new ones. For run_step.
apt_download() {
    local suite=$1 folder=$2 options
    shift 2
    mapfile -t options < <(apt_options "$suite")
    mkdir -p "$folder"
    cd "$folder" || return
    apt-get "${options[@]}" -o Dir::State::status=/dev/null download "$@" && return
    apt_update "$suite"
    apt-get "${options[@]}" -o Dir::State::status=/dev/null download "$@"
}

# apt_source SUITE FOLDER PACKAGE downloads the newest source package that the mirror really has into FOLDER:
# it may list one before it serves it. For run_step.
apt_source() {
    local suite=$1 folder=$2 package=$3 options version newest=''
    mapfile -t options < <(apt_options "$suite")
    apt_update "$suite"
    mkdir -p "$folder"
    cd "$folder" || return
    while IFS= read -r version; do
        [[ -n $newest ]] || newest=$version
        if apt-get "${options[@]}" source --download-only "$package=$version"; then
            [[ $version = "$newest" ]] || echo "note: the mirror does not serve $package $newest: it is $version"
            return 0
        fi
        rm -f ./*
    done < <(apt-cache "${options[@]}" madison "$package" | awk -F' *[|] *' '$3 ~ / Sources$/{print $2}' | uniq)
    echo "error: the mirror serves no source of $package in $suite"
    return 1
}
