package main

import (
	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/api"
)

func (c *cli) scopeReleaseCmd() *cobra.Command {
	var r api.Release
	cmd := &cobra.Command{
		Use:   "release PREFIX --source-fenced --reason TEXT",
		Short: "Serve a scope although the cluster holds since a restore",
		Long: `Serve a scope although the cluster holds since a restore. The owner must have
opened a session in the new incarnation. --source-fenced is your word that every
node which has not is off, those included that the backup does not know: since the
backup the scope may have gone to any of them, and one that still runs writes the
same keys. From the first release on the hold waits for the declared nodes alone.
cluster status says what it waits for.`,
		Example: "  scope-registry scope release app:billing: --source-fenced --incarnation 2 --reason 'rack 7 is without power'",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePrefix(args[0])
			if err != nil {
				return err
			}
			r.Prefix = p.Text()
			cl := c.dial()
			defer cl.Close()
			a, err := cl.Release(cmd.Context(), r)
			if err != nil {
				return err
			}
			return c.applied("released "+p.Text(), a)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.SourceFenced, "source-fenced", false, "your word that every node which has not met the incarnation is off")
	f.StringVar(&r.Reason, "reason", "", "why they count as off")
	f.Uint64Var(&r.Incarnation, "incarnation", 0, "only if the cluster is in this incarnation")
	return cmd
}
