"""Who is there: SWIM membership over UDP, sans-IO core and trio shell."""
