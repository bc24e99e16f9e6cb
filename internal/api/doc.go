// Package api holds the words that servers and clients share: error codes with
// their HTTP statuses and exit codes, and the JSON types of /v1.
package api
