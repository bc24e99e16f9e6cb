package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/registry"
)

// recovered is what a recovery has made.
type recovered struct {
	Server      string `json:"server"`
	Peer        string `json:"peer"`
	Incarnation uint64 `json:"incarnation"`
	Scopes      int    `json:"scopes"`
	Nodes       int    `json:"nodes"`
}

func (c *cli) clusterRecoverCmd() *cobra.Command {
	var o restoreFlags
	var dir string
	var off bool
	cmd := &cobra.Command{
		Use: "recover --data-dir DIR", Short: "Go on with the one server that is left, losing what it does not have",
		Long: `Make the one server that is left a cluster of its own. It must be stopped, and the
others must be gone for good: use this only when a majority cannot come back. What
this server never received is lost. What is known of that, and all that will happen,
is said before it is asked for; without a terminal and without --yes nothing is
changed, so that the directories of several servers can be compared: take the one
with the highest term, then index. It is refused while anything answers at the
address of another server. When it was cut off, type it again.`,
		Example: "  scope-registry cluster recover --data-dir /var/lib/scope-registry --all-nodes-known",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := registry.OpenSurvivor(cmd.Context(), dir, hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: c.err}))
			if err != nil {
				return recoverError(err)
			}
			err = c.recover(s, o, off)
			if cerr := s.Close(); err == nil && cerr != nil {
				err = recoverError(cerr)
			}
			return err
		},
	}
	o.add(cmd, "this server's last entry")
	cmd.Flags().StringVar(&dir, "data-dir", "", "directory of the server that is left")
	cmd.Flags().BoolVar(&off, "others-are-off", false, "your word that every other server is off, although something answers at its address")
	_ = cmd.MarkFlagRequired("data-dir")
	return cmd
}

func (c *cli) recover(s *registry.Survivor, o restoreFlags, off bool) error {
	if at := s.Unfinished(); at != 0 {
		c.remark("a recovery as incarnation %d was begun here and did not end; it is ended now, as it was agreed to", at)
		o.incarnation, o.yes = at, true
	} else {
		if len(s.Alive) > 0 && !off {
			return &api.Error{Code: api.WrongPhase, Detail: fmt.Sprintf("something answers at %s; if another server runs, stop here: while a majority can come back nothing needs to be recovered. "+
				"If it is none, say so with --others-are-off", serverList(s.Alive))}
		}
		switch now := s.State.Cluster().Incarnation; {
		case o.incarnation == 0:
			o.incarnation = now + unseenRestores
		case o.incarnation <= now || o.incarnation > fsm.MaxIncarnation:
			return &api.Error{Code: api.StaleEpoch, Detail: fmt.Sprintf("--incarnation %d is not above %d, which this server was in (at most %d)", o.incarnation, now, uint64(fsm.MaxIncarnation))}
		}
		if err := c.agreed(recoverStatement(s, o), s.ID(), o.yes); err != nil {
			return err
		}
	}
	if err := s.Recover(o.incarnation, rand.Text(), o.allNodesKnown); err != nil {
		return recoverError(err)
	}
	done := recovered{Server: s.ID(), Peer: s.Self().Addr, Incarnation: o.incarnation, Scopes: s.State.Scopes().Len(), Nodes: s.State.NodesLen()}
	return c.show(done, func() error {
		return c.printf("recovered server %s as incarnation %d, %d scopes, %d nodes\nstart it with --cluster %s=%s, and let new servers join it\n",
			done.Server, done.Incarnation, done.Scopes, done.Nodes, done.Server, done.Peer)
	})
}

// recoverStatement says what a recovery does and what may be lost by it.
func recoverStatement(s *registry.Survivor, o restoreFlags) string {
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	cl := s.State.Cluster()
	say("This makes server %s, one of %s, a cluster of its own.", s.ID(), serverList(s.Servers))
	say("Its log ends at index %d, term %d (its snapshot at %d). That is cluster %s, index %d, incarnation %d, %d scopes, %d nodes.",
		s.LastIndex, s.LastTerm, s.SnapshotIndex, dash(cl.ID), s.State.Index(), cl.Incarnation, s.State.Scopes().Len(), s.State.NodesLen())
	if !s.Votes {
		say("It has NO VOTE among the servers that its log ends with: it was being joined, or was removed. Any server that votes knows more.")
	}
	for _, d := range s.Damaged {
		what := "its log goes on from an older one"
		if d.Index > s.LastIndex {
			what = fmt.Sprintf("the changes of entries %d to %d are known to be LOST with it", s.LastIndex+1, d.Index)
		}
		say("Its snapshot of index %d cannot be read: %s (%v).", d.Index, what, d.Err)
	}
	say("")
	say("- LOST: every change that the other servers acknowledged and this one had not received. Its log does not tell whether")
	say("  there are any: if it was off, cut off or behind before the others were lost, expect some. Nothing after its index is known.")
	say("- MAY COME INTO FORCE: changes at the end of its log that a majority never had. Whoever asked for them was told that the")
	say("  outcome is unknown, or nothing.")
	say("- The other servers must never run again on their data: two of them are a majority of the old cluster, and would give")
	say("  out the same scopes. This one gets a new cluster id, and does not talk to them.")
	consequences(say, backup{Moves: s.State.Moves().RunningLen(), Cleanups: s.State.CleanupsLen(), state: s.State}, o)
	return out.String()
}

func serverList(all []registry.Peer) string {
	names := make([]string, 0, len(all))
	for _, p := range all {
		names = append(names, p.ID+"="+p.Addr)
	}
	return strings.Join(names, ", ")
}

// recoverError gives an error that has no code one.
func recoverError(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	code := api.Internal
	var damaged *registry.CorruptError
	if errors.As(err, &damaged) {
		code = api.Corrupt
	}
	return &api.Error{Code: code, Detail: err.Error()}
}
