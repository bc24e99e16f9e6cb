package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// auditHead are the columns of audit records.
const auditHead = "NUMBER TIME ACTOR SOURCE ACTION ABOUT RESULT REASON"

func (c *cli) clusterAuditCmd() *cobra.Command {
	var f client.AuditFilter
	var prefix string
	var limit int
	cmd := &cobra.Command{
		Use: "audit", Short: "Show who changed what, or was refused",
		Long: `Show who asked for which change, when, from where and why, oldest first; RESULT is ok
or the code of the refusal. The newest 16,384 are kept; for longer, read them on from
the last number with --from. --prefix takes exactly one prefix.`,
		Example: "  scope-registry cluster audit --newest --limit 20",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return invalid("--limit %d is negative; give 0 for all", limit)
			}
			if f.Limit = limit; cmd.Flags().Changed("prefix") {
				p, err := parsePrefix(prefix)
				if err != nil {
					return err
				}
				f.Prefix = &p
			}
			cl := c.dial()
			defer cl.Close()
			all, err := allAudit(cmd.Context(), cl, f)
			if err != nil {
				return err
			}
			if f.From != 0 && !f.Newest && all.Oldest > f.From {
				c.remark("records %d to %d are not kept any more", f.From, all.Oldest-1)
			}
			return list(c, all, all.Records, auditHead, auditRow)
		},
	}
	cmd.Flags().Uint64Var(&f.From, "from", 0, "number to begin with; 0 is the oldest, with --newest the newest")
	cmd.Flags().BoolVar(&f.Newest, "newest", false, "newest first")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most this many; 0 is all")
	cmd.Flags().StringVar(&prefix, "prefix", "", "only about exactly this prefix")
	cmd.Flags().StringVar(&f.Move, "move", "", "only about this move")
	return cmd
}

// allAudit pages through the audit, up to the filter's limit.
func allAudit(ctx context.Context, cl *client.Client, f client.AuditFilter) (client.Audit, error) {
	all := client.Audit{Records: []api.AuditRecord{}}
	limit := f.Limit
	for {
		if limit > 0 {
			f.Limit = limit - len(all.Records)
		}
		page, err := cl.Audit(ctx, f)
		if err != nil {
			return all, err
		}
		all.Index, all.Oldest, all.Next = page.Index, page.Oldest, page.Next
		all.Records = append(all.Records, page.Records...)
		if page.Next == 0 || len(page.Records) == 0 || limit > 0 && len(all.Records) >= limit {
			return all, nil
		}
		f.From = page.Next
	}
}

func (c *cli) auditTable(records []api.AuditRecord) error {
	rows := make([][]string, 0, len(records))
	for _, r := range records {
		rows = append(rows, auditRow(r))
	}
	return c.table(auditHead, rows)
}

func auditRow(r api.AuditRecord) []string {
	result := "ok"
	if r.Code != "" {
		result = string(r.Code)
	}
	var about []string
	for _, part := range []string{r.Prefix, r.Move, r.Subject} {
		if part != "" {
			about = append(about, part)
		}
	}
	return []string{num(r.Number), at(r.TimeMS), r.Actor, r.Source, r.Action, strings.Join(about, " "), result, r.Reason}
}
