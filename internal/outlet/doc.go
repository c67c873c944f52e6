// Package outlet sends lines to servers: to the first of a failover list that
// works.
package outlet
