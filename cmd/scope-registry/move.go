package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

func (c *cli) moveCmd() *cobra.Command {
	return group("move", "Move scopes from node to node", `
A move takes a scope from one node to another: copying (with --precopy only),
quiescing, shipped, done. From quiescing on nobody accepts writes to the scope.
Until it is done every move can be aborted, and then the source keeps the scope.`,
		"  scope-registry move list",
		c.moveStartCmd(), c.moveRunCmd(), c.moveListCmd(), c.moveStatusCmd(), c.moveWaitCmd(), c.moveQuiesceCmd(),
		c.moveManifestCmd("shipped", "Say that the source has sent all records", `
Say, in an assisted move, that the source is closed for the scope and that all
its records are with the target. The manifest (--keys, --bytes, --digest) is
what the target must have; ready compares it.`, (*client.Client).Shipped),
		c.moveManifestCmd("ready", "Say that the target has all records; ends the move", `
Say, in an assisted move, that the target holds all records durably. With it the
target owns the scope, at a new epoch. A manifest other than that of shipped
aborts the move (MANIFEST_MISMATCH, exit 4).`, (*client.Client).Ready),
		c.moveReasonCmd("abort", "End a move that is not done; the owner stays", `
End a move that is not done. The source keeps the scope and takes writes again;
nothing is lost. What was shipped to the target must not be served there.`, (*client.Client).Abort),
		c.moveReasonCmd("cleaned", "Say that the source has deleted its old copy", `
Say that the source of a finished move has deleted its copy, is off for good, or
runs no agent. Before that the scope can be neither retired nor moved back.`, (*client.Client).Cleaned))
}

func (c *cli) moveListCmd() *cobra.Command {
	var f client.MoveFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List moves, running ones first",
		Long:    "List the running moves by prefix, then the finished ones, newest first.\nCAUSE says why a move was aborted, CLEANUP whether its source still has its copy,\nACTOR who started it.",
		Example: "  scope-registry move list --state running",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Limit < 0 {
				return invalid("--limit %d is negative; give 0 for the server's limit", f.Limit)
			}
			cl := c.dial()
			defer cl.Close()
			m, err := cl.Moves(cmd.Context(), f)
			if err != nil {
				return err
			}
			return list(c, m, m.Moves, "ID PREFIX FROM TO PHASE MODE CAUSE CLEANUP ACTOR", func(m api.Move) []string {
				return []string{m.ID, m.Prefix, m.From, m.To, m.Phase, m.Mode, m.Cause, m.Cleanup, m.Actor}
			})
		},
	}
	cmd.Flags().StringVar(&f.Prefix, "prefix", "", "only moves of this scope, and of scopes that overlap it")
	cmd.Flags().StringVar(&f.Key, "of-key", "", "only moves of the scope this key is under")
	cmd.Flags().StringVar(&f.State, "state", "", "running, finished or all (default)")
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "at most this many; 0 is the server's limit")
	return cmd
}

func (c *cli) moveStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status ID", Short: "Show one move",
		Long: `Show one move: where it stands, how far its source is, whom it waits for and since
when, what happens by itself at which deadline, and what may safely be done now.
Deadlines are the leader's clock; the time left is counted on the clock here.`,
		Example: "  scope-registry move status mv-0123456789abcdef",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			m, err := cl.Move(cmd.Context(), args[0], 0)
			if err != nil {
				return err
			}
			return c.move(m)
		},
	}
}

func (c *cli) moveWaitCmd() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use: "wait ID", Short: "Wait until a move ends",
		Long: `Wait until a move ends, and show it then. Standard error says meanwhile whom it
waits for, how far its source is and what time is left. Exit 0 if the move is done, 4 if it was
aborted, 6 if it goes on after --for or Ctrl-C.`,
		Example: "  scope-registry move wait mv-0123456789abcdef --for 5m",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			return c.await(cmd.Context(), cl, args[0], limit)
		},
	}
	cmd.Flags().DurationVar(&limit, "for", 0, "give up after this time; 0 waits until it ends")
	return cmd
}

func (c *cli) moveQuiesceCmd() *cobra.Command {
	return c.reasonFlag(&cobra.Command{
		Use: "quiesce ID", Short: "Close the scope of a move for writes",
		Long: `Close the scope of a move that was started with --precopy: from now on nobody
accepts writes to it, and the move's window runs. In mode agent the leader does
so by itself once the source reports little left; this does not wait for that.`,
		Example: "  scope-registry move quiesce mv-0123456789abcdef",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			m, err := cl.Quiesce(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.move(m)
		},
	})
}

func (c *cli) moveReasonCmd(verb, short, long string, call func(*client.Client, context.Context, string, string) (api.Move, error)) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Long: long[1:],
		Example: "  scope-registry move " + verb + " mv-0123456789abcdef --reason 'done by hand'",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			m, err := call(cl, cmd.Context(), args[0], reason)
			if err != nil {
				return err
			}
			return c.move(m)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, kept with the move")
	if verb == "cleaned" { // it is somebody's word
		_ = cmd.MarkFlagRequired("reason")
	}
	return cmd
}

func (c *cli) moveManifestCmd(verb, short, long string, call func(*client.Client, context.Context, string, *api.Manifest) (api.Move, error)) *cobra.Command {
	var m api.Manifest
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Long: long[1:],
		Example: "  scope-registry move " + verb + " mv-0123456789abcdef --keys 1200 --bytes 65536",
		RunE: func(cmd *cobra.Command, args []string) error {
			var given *api.Manifest
			for _, name := range []string{"keys", "bytes", "digest"} {
				if cmd.Flags().Changed(name) {
					given = &m
				}
			}
			cl := c.dial()
			defer cl.Close()
			mv, err := call(cl, cmd.Context(), args[0], given)
			if err != nil {
				return err
			}
			return c.move(mv)
		},
	}
	cmd.Flags().Uint64Var(&m.Keys, "keys", 0, "how many keys the slice has")
	cmd.Flags().Uint64Var(&m.Bytes, "bytes", 0, "how many bytes the slice has")
	cmd.Flags().StringVar(&m.Digest, "digest", "", "digest over the slice, the same on both sides")
	return c.reasonFlag(cmd)
}

// move prints one move.
func (c *cli) move(m api.Move) error {
	return c.show(m, func() error {
		pairs := []string{"move", m.ID, "prefix", m.Prefix, "from", m.From, "to", m.To, "phase", m.Phase, "mode", m.Mode,
			"epoch", num(m.Epoch), "new epoch", num(m.NewEpoch), "window", span(m.WindowMS), "timeout", span(m.TimeoutMS),
			"actor", m.Actor, "reason", m.Reason, "shipped", manifestText(m.Shipped), "ready", manifestText(m.Ready),
			"closed for", span(m.QuiescedMS), "progress", progressFact(&m), "cause", m.Cause, "detail", m.Detail, "cleanup", m.Cleanup}
		return c.facts(append(pairs, waitingFacts(m.Waiting, time.Now())...)...)
	})
}

// progressFact is how far a move is, with the age of that news; "" if nobody
// told.
func progressFact(m *api.Move) string {
	if m == nil || m.Progress == nil {
		return ""
	}
	return fmt.Sprintf("%s (reported %s ago)", shipped(*m.Progress), seconds(time.Duration(m.Progress.AgeMS)*time.Millisecond))
}

// shipped is what the source of a move has shipped, what is left, how fast it
// goes and when it would end.
func shipped(p api.Progress) string {
	text := fmt.Sprintf("%d keys, %s shipped; %d keys, %s left", p.Keys, size(p.Bytes), p.KeysLeft, size(p.BytesLeft))
	if p.BytesPerSec > 0 {
		text += "; " + size(p.BytesPerSec) + "/s"
	}
	if p.LeftMS >= 0 {
		text += "; about " + whole(time.Duration(p.LeftMS)*time.Millisecond) + " to go"
	}
	return text
}

func manifestText(m *api.Manifest) string {
	switch {
	case m == nil:
		return ""
	case *m == api.Manifest{}:
		return "no manifest" // none was given: a step needs none
	}
	text := fmt.Sprintf("%d keys, %d bytes", m.Keys, m.Bytes)
	if m.Digest != "" {
		text += ", digest " + m.Digest
	}
	return text
}

// waitingFacts says what a move waits for, since when, what happens at which
// deadline and what may be done. The times are the leader's; what is left of
// them is by the clock here.
func waitingFacts(w *api.Waiting, now time.Time) []string {
	if w == nil {
		return nil
	}
	pairs := []string{"waiting for", w.For, "since", fmt.Sprintf("%s (%s)", passed(w.SinceMS, now), at(w.SinceMS))}
	for _, d := range w.Deadlines {
		pairs = append(pairs, "deadline", fmt.Sprintf("%s (%s): %s", left(d.AtMS, now), at(d.AtMS), d.What))
	}
	for _, s := range w.Safe {
		pairs = append(pairs, "safe now", s.Do+": "+s.Then)
	}
	return pairs
}

// passed is "4.2s ago".
func passed(ms int64, now time.Time) string {
	return seconds(max(0, now.Sub(time.UnixMilli(ms)))) + " ago"
}

// left is "in 3.2s", or that the time has come.
func left(ms int64, now time.Time) string {
	if d := time.UnixMilli(ms).Sub(now); d > 0 {
		return "in " + seconds(d)
	}
	return "due now"
}
