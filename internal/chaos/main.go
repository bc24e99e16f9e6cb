// Command chaos runs the registry's servers and data nodes in containers or as
// processes, has clients work on all of them while faults are done to machines,
// links and disks, and checks everything that was answered. It exits with 1 if a
// promise was broken, and also if the run shows nothing because a fault did not
// take effect. See docs/chaos.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/fault"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

const (
	// minDuration leaves each fault a few seconds, maxDuration is far below the
	// time after which a leader would abort moves by itself.
	minDuration = time.Minute
	maxDuration = 30 * time.Minute
	// composedNodes is how many data nodes the compose file has.
	composedNodes = 4
	// maxAgain bounds how often a run is made again.
	maxAgain = 5
	// exitFailed is the exit code of a run that failed or could not be made,
	// exitUsage that for flags that are wrong.
	exitFailed = 1
	exitUsage  = 2
)

// options are the flags.
type options struct {
	compose, project, out, recheck, root, timing, scenario, only, stores string
	command                                                              string // that asks for the same again
	seed                                                                 uint64
	nodes, again                                                         int
	duration, search, hold                                               time.Duration
	keep, local, broken                                                  bool
	planted                                                              bug // into the programs of a local run
}

func main() { os.Exit(start(os.Args[1:])) }

// start does what the arguments say and returns the exit code.
func start(args []string) int {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "chaos: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case o.recheck != "":
		err = recheck(o, os.Stdout)
	case o.broken:
		err = breakAll(ctx, o, os.Stdout)
	default:
		err = runs(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "chaos: %v\n", err)
		return exitFailed
	}
	return 0
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.StringVar(&o.compose, "compose", "docker-compose.yml", "compose file of the servers")
	f.StringVar(&o.stores, "stores", "docker-compose.stores.yml", "compose file of the data nodes, beside that of the servers")
	f.StringVar(&o.scenario, "scenario", fault.Every, "faults: "+fault.Servers+", "+fault.Every+", "+fault.Mix+", or the name of one fault")
	f.DurationVar(&o.hold, "hold", 6*time.Second, "how long each fault is in force, more or less; the calm between two is two thirds of it")
	f.IntVar(&o.again, "again", 0, "how often a run that turns out void is made again, with the next seed")
	f.BoolVar(&o.broken, "broken", false, "plant one bug after the other, and see that a local run finds each")
	f.StringVar(&o.only, "only", "", "with -broken: only bugs whose name holds this")
	f.BoolVar(&o.local, "local", false, "processes on this machine instead of containers")
	f.IntVar(&o.nodes, "nodes", 4, "data nodes, whose scopes are written to and moved; 0, or 2 to 5")
	f.StringVar(&o.timing, "timing", "fast", "Raft timing of a local run")
	f.StringVar(&o.root, "root", ".", "the repository, which a local run builds its programs from")
	f.StringVar(&o.project, "project", "scope-registry-chaos", "compose project; what an earlier run left of it is removed, and one that runs is refused")
	f.Uint64Var(&o.seed, "seed", 0, "seed of the clients' choices; 0 takes one by chance")
	f.DurationVar(&o.duration, "duration", 150*time.Second, "how long clients work; longer if the faults of the scenario take longer")
	f.DurationVar(&o.search, "search", 2*time.Minute, "how long a linearization is searched for")
	f.StringVar(&o.out, "out", "", "directory for the result, which must not have a history; by default a new one in the temporary directory, and with -recheck none")
	f.BoolVar(&o.keep, "keep", false, "leave the servers running")
	f.StringVar(&o.recheck, "recheck", "", "check this history.jsonl again, and run nothing")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is not understood; see -help", f.Args())
	case o.duration < minDuration || o.duration > maxDuration:
		return o, fmt.Errorf("-duration %v is not between %v and %v", o.duration, minDuration, maxDuration)
	case o.again < 0 || o.again > maxAgain:
		return o, fmt.Errorf("-again %d is not between 0 and %d", o.again, maxAgain)
	case o.hold < time.Second || o.hold > time.Minute:
		return o, fmt.Errorf("-hold %v is not between 1s and 1m", o.hold)
	case o.nodes < 0 || o.nodes == 1 || o.nodes > 5:
		return o, fmt.Errorf("-nodes %d is not 0, or 2 to 5", o.nodes)
	case o.nodes > composedNodes && !o.local:
		return o, fmt.Errorf("-nodes %d is more than the %d of docker-compose.stores.yml; with -local there can be 5", o.nodes, composedNodes)
	case o.search <= 0:
		return o, fmt.Errorf("-search %v is not above 0", o.search)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	o.command = again(f, o)
	return o, nil
}

// again is the command that asks for the same run: the flags that make a
// difference to it, and the seed. Containers are made from an image, which make
// builds.
func again(f *flag.FlagSet, o options) string {
	args := []string{fmt.Sprintf("-seed %d", o.seed)}
	f.Visit(func(set *flag.Flag) {
		switch set.Name {
		case "seed", "out", "keep", "again", "recheck", "root", "search", "project":
		default:
			args = append(args, fmt.Sprintf("-%s=%s", set.Name, set.Value))
		}
	})
	if o.local {
		return "go run ./internal/chaos " + strings.Join(args, " ")
	}
	return fmt.Sprintf("make chaos CHAOSFLAGS='%s'", strings.Join(args, " "))
}

// program is what this program was built from.
func program() history.Program {
	p := history.Program{Version: "devel", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return p
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		p.Version = v
		return p
	}
	const short = 12 // digits of a commit
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= short {
			p.Version = s.Value[:short]
		}
	}
	return p
}
