package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// unseenRestores is by how much the number of a new incarnation is raised where
	// nobody can tell what the last one was: each restore that is not known took one.
	unseenRestores = 100
	// namedNodes bounds the nodes that a statement names.
	namedNodes = 10
)

// restoreFlags are those of backup restore, and of cluster recover.
type restoreFlags struct {
	incarnation   uint64
	allNodesKnown bool
	from          string
	yes           bool
}

func (o *restoreFlags) add(cmd *cobra.Command, since string) {
	f := cmd.Flags()
	f.Uint64Var(&o.incarnation, "incarnation", 0, "number of the new incarnation, above any that the cluster was ever in (default: chosen, and said)")
	f.BoolVar(&o.allNodesKnown, "all-nodes-known", false, "your word that no other node was declared since "+since)
	f.BoolVar(&o.yes, "yes", false, "do not ask")
}

func (c *cli) backupRestoreCmd() *cobra.Command {
	var o restoreFlags
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Put a backup in the place of the cluster's state",
		Long: `Put a backup in the place of the cluster's state. The file is checked first, here
and on the server; then what will happen is said, and asked for unless --yes is
given. A new incarnation begins, in which the cluster holds: no scope takes writes
until every declared node has opened a session in it. That is enough only with
--all-nodes-known; without it scopes are released by hand, see scope release.
A backup of another cluster is refused unless --from-cluster names that one: after
the loss of all servers, for example, into a new and empty cluster.`,
		Example: "  scope-registry backup restore scopes.backup --all-nodes-known",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.restore(cmd, args[0], o)
		},
	}
	o.add(cmd, "the backup")
	cmd.Flags().StringVar(&o.from, "from-cluster", "", "id of the cluster that the backup is of, where it is another one")
	return c.reasonFlag(cmd)
}

func (c *cli) restore(cmd *cobra.Command, name string, o restoreFlags) error {
	f, err := os.Open(name)
	if err != nil {
		return openFailed(name, err)
	}
	defer func() { _ = f.Close() }()
	b, err := c.verify(name, f)
	if err != nil {
		return err
	}
	cl := c.dial()
	defer cl.Close()
	now, err := cl.Cluster(cmd.Context(), false)
	if err != nil {
		return err
	}
	if err := o.check(b, now); err != nil {
		return err
	}
	if err := c.agreed(restoreStatement(b, now, o), now.ID, o.yes); err != nil {
		return err
	}
	var sent atomic.Int64
	end := c.goLive(transferred("sent", &sent))
	done, err := cl.Restore(cmd.Context(), counting{f, counter{&sent}}, api.RestoreOptions{Incarnation: o.incarnation, Tag: rand.Text(),
		AllNodesKnown: o.allNodesKnown, FromCluster: o.from, SHA256: b.SHA256})
	end()
	if err != nil {
		return err
	}
	return c.show(done, func() error {
		return c.facts("cluster", done.Cluster, "incarnation", num(done.Incarnation), "index", num(done.Index), "backup index", num(done.BackupIndex),
			"scopes", fmt.Sprint(done.Scopes), "nodes", fmt.Sprint(done.Nodes), "hold", done.Hold)
	})
}

// check fills in the incarnation, and refuses what the cluster would refuse after
// the upload.
func (o *restoreFlags) check(b backup, now api.Cluster) error {
	highest, step := max(now.Incarnation, b.Incarnation), uint64(1)
	if b.Cluster != now.ID {
		if o.from != b.Cluster {
			return invalid("%s is a backup of cluster %s, and %s is asked; if the nodes and scopes of that cluster are meant to be served by this one, say so with --from-cluster %s",
				b.File, b.Cluster, now.ID, b.Cluster)
		}
		step = unseenRestores
	} else if o.from != "" && o.from != b.Cluster {
		return invalid("--from-cluster is %s, and %s is a backup of cluster %s", o.from, b.File, b.Cluster)
	}
	switch {
	case o.incarnation == 0:
		o.incarnation = highest + step
	case o.incarnation <= highest || o.incarnation > fsm.MaxIncarnation:
		return &api.Error{Code: api.StaleEpoch, Detail: fmt.Sprintf("--incarnation %d is not above %d, the highest that the cluster or the backup is of (at most %d)",
			o.incarnation, highest, uint64(fsm.MaxIncarnation))}
	}
	return nil
}

// restoreStatement says what a restore does, to be read before it is agreed to.
func restoreStatement(b backup, now api.Cluster, o restoreFlags) string {
	var s strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	say("This replaces the state of cluster %s: index %d, incarnation %d, %d scopes, %d nodes, %d running moves.", now.ID, now.Index, now.Incarnation, now.Scopes, now.Nodes, now.Moves)
	say("By that of %s: written %s, index %d, incarnation %d, %d scopes, %d nodes.", b.File, dash(b.Written), b.Index, b.Incarnation, b.Scopes, b.Nodes)
	if b.Cluster != now.ID {
		say("The backup is of ANOTHER CLUSTER, %s. None of its servers may run any more, or two clusters give out the same scopes.", b.Cluster)
	}
	say("")
	say("- What is not in the backup is forgotten: scopes, nodes, moves and takeovers since then.")
	say("  A scope that has moved since goes back to the node that had it; that node lacks what was written since.")
	consequences(say, b, o)
	return s.String()
}

// consequences are those of any new incarnation.
func consequences(say func(string, ...any), b backup, o restoreFlags) {
	say("- Incarnation %d begins. It must be above any that the cluster was ever in.", o.incarnation)
	say("- Every session ends. %d running moves are aborted, %d pending cleanups are cancelled: the old copies stay.", b.Moves, b.Cleanups)
	say("- The cluster holds: NO SCOPE TAKES WRITES until each of these nodes has opened a session: %s.", nodesOf(b.state))
	if o.allNodesKnown {
		say("- You say that no other node was declared since. If one was, and runs, it may write what it was given.")
	} else {
		say("- The hold does not end by itself, as --all-nodes-known is not given: scopes are released by hand (scope release).")
	}
}

func nodesOf(s fsm.State) string {
	var names []string
	for n := range s.Nodes() {
		if len(names) == namedNodes {
			names = append(names, fmt.Sprintf("and %d more", s.NodesLen()-namedNodes))
			break
		}
		names = append(names, string(n.ID))
	}
	if len(names) == 0 {
		return "none is declared, so that nothing holds"
	}
	return strings.Join(names, ", ")
}

// agreed prints the statement and returns nil if it is agreed to: by --yes, or by
// the word typed at a terminal.
func (c *cli) agreed(statement, word string, yes bool) error {
	_, _ = fmt.Fprintln(c.err, statement)
	if yes {
		return nil
	}
	if !c.typed() {
		return invalid("nothing was changed: standard input is no terminal to be asked at; read the above and give --yes")
	}
	_, _ = fmt.Fprintf(c.err, "Type %s to go on: ", word)
	line, err := bufio.NewReader(c.in).ReadString('\n')
	if got := strings.TrimSpace(line); got != word {
		return invalid("nothing was changed: %q was typed and not %q (%v)", got, word, err)
	}
	return nil
}

// counting counts what is read.
type counting struct {
	io.ReadSeeker
	counter
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	c.n.Add(int64(n))
	return n, err
}
