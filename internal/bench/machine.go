package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine prints what the figures were measured on and with.
func machine(ctx context.Context, r *report, o options, dir string) error {
	r.header("what", "value")
	r.row("time", time.Now().UTC().Format(time.RFC3339))
	r.row("processor", fmt.Sprintf("%s, %d cores", field("/proc/cpuinfo", "model name"), runtime.NumCPU()))
	r.row("memory", field("/proc/meminfo", "MemTotal"))
	r.row("kernel", firstLine("/proc/sys/kernel/osrelease"))
	r.row("load before", loadAverage())
	r.row("data directories", "on "+filesystem(dir))
	r.row("Go", runtime.Version())
	version, err := output(ctx, o.bin, "version")
	if err != nil {
		return fmt.Errorf("%w; build it with: make build", err)
	}
	r.row("scope-registry", version+"; three servers, timing default where no other is named")
	for _, bin := range o.etcd {
		version, err := etcdVersion(ctx, bin)
		if err != nil {
			return err
		}
		r.row("etcd", version+"; three members, defaults")
	}
	if slices.Contains(o.parts, partResp) {
		server, benchmark, err := redisVersions(ctx, o)
		if err != nil {
			return err
		}
		r.row("redis-server", server+"; one, which keeps nothing on disk")
		r.row("redis-benchmark", benchmark)
	}
	return r.err
}

// loadAverage is that of the last minute, of 5 and of 15.
func loadAverage() string {
	return strings.Join(strings.Fields(firstLine("/proc/loadavg"))[:3], " ")
}

// stamp is the first line of a block: which run it is of.
func stamp(ctx context.Context, r *report, name string, o options) error {
	version, err := output(ctx, o.bin, "version")
	if err != nil {
		return fmt.Errorf("%w; build it with: make build", err)
	}
	r.line("`make bench PART=%s` of %s, %s, load before it %s.\n", name, version, time.Now().UTC().Format(time.RFC3339), loadAverage())
	return r.err
}

// etcdVersion is what an etcd says it is.
func etcdVersion(ctx context.Context, bin string) (string, error) {
	said, err := output(ctx, bin, "--version")
	if err != nil {
		return "", fmt.Errorf("%w; make bench builds one, another can be named: make bench ETCD=path", err)
	}
	return strings.TrimSpace(strings.TrimPrefix(said, "etcd Version:")), nil
}

// output is the first line that a program prints.
func output(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// field is a value of a file of "name: value" lines.
func field(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// Numbers of file systems that keep nothing over a loss of power, or whose fsync is of another kind.
const (
	tmpfs     = 0x01021994
	overlayFS = 0x794c7630
	ext       = 0xef53
	xfs       = 0x58465342
	btrfs     = 0x9123683e
)

func filesystem(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return "an unknown file system"
	}
	switch s.Type {
	case tmpfs:
		return "tmpfs, WHERE FSYNC COSTS NOTHING: set TMPDIR to a disk"
	case overlayFS:
		return "overlay"
	case ext:
		return "ext4"
	case xfs:
		return "xfs"
	case btrfs:
		return "btrfs"
	default:
		return fmt.Sprintf("file system %#x", s.Type)
	}
}
