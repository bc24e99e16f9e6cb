package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/api"
)

// startFlags are what every move is started with.
type startFlags struct {
	move          api.StartMove
	window, limit time.Duration
}

func (o *startFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.move.From, "from", "", "node that owns the scope now")
	f.StringVar(&o.move.To, "to", "", "node that becomes the owner")
	f.StringVar(&o.move.ID, "id", "", "id of the move; made if empty")
	f.StringVar(&o.move.Reason, "reason", "", "why, kept with the move")
	f.BoolVar(&o.move.PreCopy, "precopy", false, "copy while the scope is still written, then quiesce")
	f.Uint64Var(&o.move.ExpectedEpoch, "if-epoch", 0, "only if the scope has this epoch")
	f.DurationVar(&o.window, "window", 0, "longest time without writes; 0 is 5s in mode agent, 10m in mode assisted")
	f.DurationVar(&o.limit, "move-timeout", 0, "longest time for the whole move; 0 is the default")
	_ = cmd.MarkFlagRequired("from")
	_ = cmd.MarkFlagRequired("to")
}

// request is the move the flags ask for.
func (o *startFlags) request(prefix string) (api.StartMove, error) {
	p, err := parsePrefix(prefix)
	if err != nil {
		return api.StartMove{}, err
	}
	for name, d := range map[string]time.Duration{"window": o.window, "move-timeout": o.limit} {
		if d < 0 || d%time.Millisecond != 0 { // 0.5 ms would become 0, which is the default
			return api.StartMove{}, invalid("--%s %v is not a whole number of milliseconds, or negative", name, d)
		}
	}
	m := o.move
	m.Prefix, m.WindowMS, m.TimeoutMS = p.Text(), uint64(o.window.Milliseconds()), uint64(o.limit.Milliseconds())
	return m, nil
}

func (c *cli) moveStartCmd() *cobra.Command {
	var o startFlags
	var wait bool
	cmd := &cobra.Command{
		Use: "start PREFIX --from NODE --to NODE", Short: "Start moving a scope",
		Long: `Start moving a scope. Without --precopy nobody accepts writes to it from now on,
until the move ends. In mode agent both nodes need a live session, and they do the
rest. In mode assisted you ship the records and then say shipped and ready; move
run does all of that around a command of yours.
With --wait: exit 0 when the move is done, 4 when it was aborted.`,
		Example: "  scope-registry move start app:billing: --from embed-billing-1 --to server-eu-1 --mode assisted",
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := o.request(args[0])
			if err != nil {
				return err
			}
			cl := c.dial()
			defer cl.Close()
			if m.ID == "" { // made here, so that it is known whatever the answer is
				m.ID = newMoveID()
			}
			mv, err := cl.StartMove(cmd.Context(), m)
			if err != nil {
				return unsure(err, "if there is none, it did not start; the same command with --id does not start a second one", m.ID)
			}
			if !wait {
				return c.move(mv)
			}
			c.remark("move %s started", mv.ID)
			return c.await(cmd.Context(), cl, mv.ID, 0)
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&o.move.Mode, "mode", "", "agent (default) or assisted")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the move ends")
	return cmd
}
