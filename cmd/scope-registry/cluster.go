package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/api"
)

// lagging is how many entries a server may be behind before it is worth a
// word: those under way while the servers are asked one by one.
const lagging = 100

func (c *cli) clusterCmd() *cobra.Command {
	var hash bool
	status := &cobra.Command{
		Use: "status", Short: "Show the servers",
		Long: `Show the servers: who leads, what each has applied, whether it is ready. Standard
error warns of servers that do not answer or lag, of a missing leader, and of
scopes without a fallback. --hash compares the states; it costs a pass over each.`,
		Example: "  scope-registry cluster status --hash",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			s, err := cl.Cluster(cmd.Context(), hash)
			if err != nil {
				return err
			}
			if err := c.show(s, func() error { return c.clusterTable(s, hash) }); err != nil {
				return err
			}
			c.warn(clusterWarnings(s))
			return nil
		},
	}
	status.Flags().BoolVar(&hash, "hash", false, "ask each server for the hash of its state")
	var to string
	transfer := &cobra.Command{
		Use: "transfer", Short: "Hand leadership to another server",
		Long: `Hand leadership to another server, for example before the leader is stopped.
Requests go on; changes wait for some milliseconds.`,
		Example: "  scope-registry cluster transfer --to s2",
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
	return group("cluster", "The servers of the registry", `
The servers of the registry: whether they answer and agree, who leads, and how
they are replaced. Also the first token, and who changed what.`, "  scope-registry cluster status", status, transfer, c.clusterJoinCmd(), c.clusterRemoveCmd(), c.clusterRecoverCmd(),
		c.clusterBootstrapCmd(), c.clusterAuditCmd())
}

func (c *cli) clusterTable(s api.Cluster, hash bool) error {
	if err := c.printf("cluster %s, incarnation %d, leader %s, index %d, %d scopes (%d without fallback), %d nodes, %d running moves, %d pending cleanups\n",
		s.ID, s.Incarnation, dash(s.Leader), s.Index, s.Scopes, s.NoFallback, s.Nodes, s.Moves, s.Cleanups); err != nil {
		return err
	}
	head := "ID ROLE INDEX BEHIND TERM READY PEER HTTP VERSION"
	if hash {
		head += " HASH"
	}
	rows := make([][]string, 0, len(s.Members))
	for _, m := range s.Members {
		row := []string{m.ID, m.Role, num(m.Index), num(m.Behind), num(m.Term), yesNo(m.Ready), m.Peer, m.HTTP, m.Version}
		if m.Error != "" {
			row = []string{m.ID, "unreachable", "", "", "", "", m.Peer, "", ""}
		}
		if hash {
			row = append(row, m.StateHash)
		}
		rows = append(rows, row)
	}
	return c.table(head, rows)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// clusterWarnings are what somebody should look at.
func clusterWarnings(s api.Cluster) []string {
	var out []string
	if s.Leader == "" {
		out = append(out, fmt.Sprintf("%s knows no leader: nothing can be changed until a majority of the servers reach each other", s.Self))
	}
	if s.Hold != "" {
		out = append(out, s.Hold)
	}
	if ch := s.Change; ch != nil {
		out = append(out, changeLine(*ch))
	}
	newest, format, hashes := uint64(0), 0, map[uint64]api.Member{}
	for _, m := range s.Members {
		newest, format = max(newest, m.Index), max(format, m.LogFormat)
	}
	for _, m := range s.Members {
		switch {
		case m.Error != "":
			out = append(out, fmt.Sprintf("%s does not answer %s: %s", m.ID, s.Self, m.Error))
		case m.Role == "non-voter":
			out = append(out, fmt.Sprintf("%s does not vote yet and is %d entries behind", m.ID, m.Behind))
		case newest-m.Index > lagging:
			out = append(out, fmt.Sprintf("%s is at index %d, %d behind: it answers local reads from the past", m.ID, m.Index, newest-m.Index))
		case !m.Ready:
			out = append(out, fmt.Sprintf("%s is not ready: it catches up, or knows no leader", m.ID))
		}
		if m.Error == "" && m.LogFormat < format {
			out = append(out, fmt.Sprintf("%s runs release %s, which is older than that of others: until it is upgraded no server joins or leaves, nothing is restored, and states are not checked", m.ID, m.Version))
		}
		if m.DiskLow {
			out = append(out, fmt.Sprintf("the disk of %s is nearly full (%d MiB free): make space; as the leader it takes no commands", m.ID, m.DiskFree>>20))
		}
		if m.DiskStalledMS > 0 {
			out = append(out, fmt.Sprintf("the disk of %s hangs: a write has not returned for %d ms", m.ID, m.DiskStalledMS))
		}
		if m.StateHash == "" {
			continue
		}
		if other, ok := hashes[m.Index]; ok && other.StateHash != m.StateHash {
			out = append(out, fmt.Sprintf("%s and %s have different states at index %d: one of them is damaged; keep both data directories for looking into", other.ID, m.ID, m.Index))
		}
		hashes[m.Index] = m
	}
	if s.NoFallback > 0 {
		out = append(out, fmt.Sprintf("%d of %d scopes have no fallback; see scope list --no-fallback", s.NoFallback, s.Scopes))
	}
	return out
}

func (c *cli) healthCmd() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Exit 0 when a server is ready",
		Long: `Ask a server whether it is ready: it has caught up once and knows a leader.
Exit 0 if it is, 5 if not or if none answers.`,
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
		Use: "version", Short: "Print the version",
		Long:    "Print the version of this program and of the Go that built it.",
		Example: "  scope-registry version",
		RunE: func(*cobra.Command, []string) error {
			return c.show(struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{version(), runtime.Version()}, func() error { return c.printf("scope-registry %s (%s)\n", version(), runtime.Version()) })
		},
	}
}
