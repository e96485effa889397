# Functions that the scripts share: what the suites need, and how to get it.
# Source it from the repository's root.

# as_root runs a command as root, through sudo where that needs no password.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

# install_packages installs what the suites use, on Debian and Ubuntu as root.
install_packages() {
	command -v apt-get >/dev/null && can_root || return 0
	local want=() package
	for package in docker.io postgresql openssh-server openssh-client debootstrap busybox-static iproute2 iptables git curl procps; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || want+=("$package")
	done
	# Another Docker engine than the distribution's will do.
	if command -v dockerd >/dev/null; then want=("${want[@]/docker.io/}"); fi
	python3 -c 'import ensurepip, venv' 2>/dev/null || want+=(python3-venv)
	want=(${want[@]})
	[ "${#want[@]}" -gt 0 ] || return 0
	echo "installing ${want[*]}"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || true
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${want[@]}" >/dev/null
}

# install_published installs a release of the published original from its package into the
# virtual environment $1, once: $2 is its requirement. The program comes last, so one without
# it is made again.
install_published() {
	local venv=$1 requirement=$2
	[ -x "$venv/bin/dstack" ] && return 0
	command -v python3 >/dev/null || return 1
	python3 -m venv --clear "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check "$requirement" || { rm -rf "$venv"; return 1; }
}

# install_published_clients installs the newest release, with its server, and the last ones of
# older minor versions, beside each other. e2e/published_test.go names the same.
install_published_clients() {
	local version older=()
	for version in 0.21.5 0.20.29 0.19.40; do
		install_published "bin/original-$version" "dstack==$version" &
		older+=($!)
	done
	install_published bin/original 'dstack[server]==0.22.5' || return 1
	local pid
	for pid in "${older[@]}"; do wait "$pid" || return 1; done
}

# start_postgres starts a PostgreSQL of our own on a socket in $1 and sets TEST_POSTGRES.
start_postgres() {
	local dir=$1 port
	bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
	[ -n "$bin" ] || bin=$(dirname "$(command -v initdb 2>/dev/null || echo /none/initdb)")
	[ -x "$bin/initdb" ] || return 1
	mkdir -p "$dir/pg"
	run=()
	if [ "$(id -u)" = 0 ]; then
		id postgres >/dev/null 2>&1 || return 1
		chmod 0755 "$dir"
		chown postgres "$dir/pg"
		run=(runuser -u postgres --)
	fi
	"${run[@]}" "$bin/initdb" -D "$dir/pg/data" -U postgres -A trust -E UTF8 --locale=C >"$dir/initdb.log" 2>&1 || { tail -5 "$dir/initdb.log"; return 1; }
	port=$(free_port)
	"${run[@]}" "$bin/pg_ctl" -D "$dir/pg/data" -l "$dir/pg/log" -w -t 30 \
		-o "-c listen_addresses=127.0.0.1 -p $port -k $dir/pg -c fsync=off -c max_connections=300" start >/dev/null || return 1
	postgres_stop=("${run[@]}" "$bin/pg_ctl" -D "$dir/pg/data" -m immediate stop)
	stop_postgres() { "${postgres_stop[@]}" >/dev/null 2>&1 || true; }
	export TEST_POSTGRES="postgres://postgres@127.0.0.1:$port/postgres?sslmode=disable"
}

stop_postgres() { :; }

# free_port prints a TCP port of the loopback interface that nobody listens on.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 12000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
	done
}

# start_docker makes DOCKER_HOST name an engine: the running one, or our own in $1.
start_docker() {
	local dir=$1
	if docker info >/dev/null 2>&1; then
		return 0
	fi
	command -v dockerd >/dev/null && [ "$(id -u)" = 0 ] || return 1
	mkdir -p "$dir/docker"
	dockerd --data-root "${DSTACK_TEST_DOCKER_ROOT:-$dir/docker/data}" --exec-root "$dir/docker/exec" \
		--pidfile "$dir/docker/pid" --host "unix://$dir/docker.sock" >"$dir/docker/log" 2>&1 &
	docker_pid=$!
	stop_docker() {
		kill "$docker_pid" 2>/dev/null || return 0
		wait "$docker_pid" 2>/dev/null || true
	}
	export DOCKER_HOST="unix://$dir/docker.sock"
	local n
	for n in $(seq 100); do
		docker info >/dev/null 2>&1 && return 0
		kill -0 "$docker_pid" 2>/dev/null || break
		sleep 0.2
	done
	tail -5 "$dir/docker/log" >&2
	return 1
}

stop_docker() { :; }
