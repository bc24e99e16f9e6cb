// Package transport holds what every listener of a server has in common: the rule that decides which addresses
// may be listened on. The listeners themselves are its subpackages, one per protocol.
package transport
