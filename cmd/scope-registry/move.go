package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// waitStep is how long the server is asked to wait at once: proxies end requests that are longer.
const waitStep = 20 * time.Second

func (c *cli) moveCmd() *cobra.Command {
	return group("move", "Move scopes from node to node", "  scope-registry move list",
		c.moveStartCmd(), c.moveListCmd(), c.moveStatusCmd(), c.moveWaitCmd(),
		c.moveReasonCmd("abort", "End a move that is not done; the owner stays", (*client.Client).Abort),
		c.moveReasonCmd("cleaned", "Say that the source has deleted its old copy", (*client.Client).Cleaned),
		c.moveQuiesceCmd(),
		c.moveManifestCmd("shipped", "Say that the source has sent all records", (*client.Client).Shipped),
		c.moveManifestCmd("ready", "Say that the target has all records; ends the move", (*client.Client).Ready))
}

func (c *cli) moveStartCmd() *cobra.Command {
	var m api.StartMove
	var wait bool
	var window, limit time.Duration
	cmd := &cobra.Command{
		Use: "start PREFIX --from NODE --to NODE", Short: "Start moving a scope", Args: cobra.ExactArgs(1),
		Example: "  scope-registry move start app:billing: --from embed-billing-1 --to server-eu-1 --mode assisted",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePrefix(args[0])
			if err != nil {
				return err
			}
			if window < 0 || limit < 0 {
				return invalid("--window %v and --move-timeout %v must not be negative", window, limit)
			}
			m.Prefix, m.WindowMS, m.TimeoutMS = p.Text(), uint64(window.Milliseconds()), uint64(limit.Milliseconds())
			cl := c.dial()
			defer cl.Close()
			mv, err := cl.StartMove(cmd.Context(), m)
			if err != nil {
				return err
			}
			if !wait {
				return c.move(mv)
			}
			c.remark("move %s started", mv.ID)
			return c.await(cmd.Context(), cl, mv.ID, 0)
		},
	}
	f := cmd.Flags()
	f.StringVar(&m.From, "from", "", "node that owns the scope now")
	f.StringVar(&m.To, "to", "", "node that becomes the owner")
	f.StringVar(&m.Mode, "mode", "", "agent (default) or assisted")
	f.StringVar(&m.ID, "id", "", "id of the move; made by the server if empty")
	f.StringVar(&m.Reason, "reason", "", "why, kept with the move")
	f.BoolVar(&m.PreCopy, "precopy", false, "copy while the scope is still written, then quiesce")
	f.Uint64Var(&m.ExpectedEpoch, "if-epoch", 0, "only if the scope has this epoch")
	f.DurationVar(&window, "window", 0, "longest time without writes; 0 is the mode's default")
	f.DurationVar(&limit, "move-timeout", 0, "longest time for the whole move; 0 is the default")
	f.BoolVar(&wait, "wait", false, "wait until the move ends")
	_ = cmd.MarkFlagRequired("from")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// await waits until the move has ended. limit 0 waits for ever.
func (c *cli) await(ctx context.Context, cl *client.Client, id string, limit time.Duration) error {
	outer := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	for {
		mv, err := cl.Move(ctx, id, waitStep)
		if ctx.Err() != nil {
			if outer.Err() == nil {
				return &api.Error{Code: api.Timeout, Move: id, Detail: fmt.Sprintf("move %s did not end within %v; it goes on", id, limit)}
			}
			return &api.Error{Code: api.Timeout, Move: id, Detail: fmt.Sprintf("stopped waiting for move %s; it goes on", id)}
		}
		if err != nil {
			return err
		}
		switch mv.Phase {
		case "done":
			return c.move(mv)
		case "aborted":
			if err := c.move(mv); err != nil {
				return err
			}
			return &api.Error{Code: api.WrongPhase, Move: id,
				Detail: fmt.Sprintf("move %s was aborted (%s) %s; %s still owns %s", id, mv.Cause, mv.Detail, mv.From, mv.Prefix)}
		}
	}
}

// move prints one move.
func (c *cli) move(m api.Move) error {
	return c.show(m, func() error {
		pairs := []string{"move", m.ID, "prefix", m.Prefix, "from", m.From, "to", m.To, "phase", m.Phase, "mode", m.Mode,
			"epoch", num(m.Epoch), "new epoch", num(m.NewEpoch), "shipped", manifestText(m.Shipped), "ready", manifestText(m.Ready),
			"quiesced ms", fmt.Sprint(m.QuiescedMS), "cause", m.Cause, "detail", m.Detail, "cleanup", m.Cleanup}
		return c.facts(append(pairs, waitingFacts(m.Waiting)...)...)
	})
}

// waitingFacts says what a move waits for, since when, what happens at which
// deadline and what may be done.
func waitingFacts(w *api.Waiting) []string {
	if w == nil {
		return nil
	}
	pairs := []string{"waiting for", w.For, "since", at(w.SinceMS)}
	for _, d := range w.Deadlines {
		pairs = append(pairs, "deadline", at(d.AtMS)+": "+d.What)
	}
	for _, s := range w.Safe {
		pairs = append(pairs, "safe now", s.Do+": "+s.Then)
	}
	return pairs
}

func at(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

func manifestText(m *api.Manifest) string {
	if m == nil {
		return ""
	}
	return fmt.Sprintf("%d keys, %d bytes %s", m.Keys, m.Bytes, m.Digest)
}

func (c *cli) moveListCmd() *cobra.Command {
	var f client.MoveFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List moves, running ones first", Args: cobra.NoArgs,
		Example: "  scope-registry move list --state running",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			m, err := cl.Moves(cmd.Context(), f)
			if err != nil {
				return err
			}
			return list(c, m, m.Moves, "ID PREFIX FROM TO PHASE MODE", func(m api.Move) []string {
				return []string{m.ID, m.Prefix, m.From, m.To, m.Phase, m.Mode}
			})
		},
	}
	cmd.Flags().StringVar(&f.Prefix, "prefix", "", "only moves of this scope")
	cmd.Flags().StringVar(&f.Key, "key", "", "only moves of the scope this key is under")
	cmd.Flags().StringVar(&f.State, "state", "", "running, finished or all (default)")
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "at most this many; 0 is the server's limit")
	return cmd
}

func (c *cli) moveStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status ID", Short: "Show one move", Args: cobra.ExactArgs(1), Example: "  scope-registry move status mv-0123456789abcdef",
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
		Use: "wait ID", Short: "Wait until a move ends", Args: cobra.ExactArgs(1),
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
	return &cobra.Command{
		Use: "quiesce ID", Short: "Close the scope of a move for writes", Args: cobra.ExactArgs(1),
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
	}
}

func (c *cli) moveReasonCmd(verb, short string, call func(*client.Client, context.Context, string, string) (api.Move, error)) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
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
	return cmd
}

func (c *cli) moveManifestCmd(verb, short string, call func(*client.Client, context.Context, string, *api.Manifest) (api.Move, error)) *cobra.Command {
	var m api.Manifest
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
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
	return cmd
}
