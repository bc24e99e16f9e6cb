package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/api"
)

func (c *cli) clusterCmd() *cobra.Command {
	var hash bool
	status := &cobra.Command{
		Use: "status", Short: "Show the servers", Args: cobra.NoArgs, Example: "  scope-registry cluster status --hash",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			s, err := cl.Cluster(cmd.Context(), hash)
			if err != nil {
				return err
			}
			return c.show(s, func() error { return c.clusterTable(s, hash) })
		},
	}
	status.Flags().BoolVar(&hash, "hash", false, "ask each server for the hash of its state")
	var to string
	transfer := &cobra.Command{
		Use: "transfer", Short: "Hand leadership to another server", Args: cobra.NoArgs, Example: "  scope-registry cluster transfer --to s2",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			if err := cl.Transfer(cmd.Context(), to); err != nil {
				return err
			}
			return c.show(struct {
				To string `json:"to"`
			}{to}, func() error { return c.printf("leadership transferred\n") })
		},
	}
	transfer.Flags().StringVar(&to, "to", "", "server that becomes leader; any if empty")
	return group("cluster", "The servers of the registry", "  scope-registry cluster status", status, transfer)
}

func (c *cli) clusterTable(s api.Cluster, hash bool) error {
	if err := c.printf("cluster %s, leader %s, index %d, %d scopes (%d without fallback), %d nodes, %d running moves, %d pending cleanups\n",
		s.ID, s.Leader, s.Index, s.Scopes, s.NoFallback, s.Nodes, s.Moves, s.Cleanups); err != nil {
		return err
	}
	head := "ID ROLE INDEX TERM READY PEER HTTP VERSION"
	if hash {
		head += " HASH"
	}
	rows := make([][]string, 0, len(s.Members))
	for _, m := range s.Members {
		role := m.Role
		if m.Error != "" {
			role = "unreachable"
		}
		row := []string{m.ID, role, num(m.Index), num(m.Term), fmt.Sprint(m.Ready), m.Peer, m.HTTP, m.Version}
		if hash {
			row = append(row, m.StateHash)
		}
		rows = append(rows, row)
	}
	return c.table(head, rows)
}

func (c *cli) healthCmd() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Exit 0 when a server is ready", Args: cobra.NoArgs,
		Example: "  scope-registry health --endpoints http://127.0.0.1:7481 --timeout 2s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			if err := cl.Health(cmd.Context()); err != nil {
				return err
			}
			return c.show(struct {
				Ready bool `json:"ready"`
			}{true}, func() error { return c.printf("ready\n") })
		},
	}
}

// stamped is the version that the build was told (make build), if it was.
var stamped string

// version is what the build was told, else that of the module or of the commit
// the program was built from.
func version() string {
	if stamped != "" {
		return stamped
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "devel"
}

func (c *cli) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  scope-registry version",
		RunE: func(*cobra.Command, []string) error {
			return c.show(struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{version(), runtime.Version()}, func() error { return c.printf("scope-registry %s (%s)\n", version(), runtime.Version()) })
		},
	}
}
