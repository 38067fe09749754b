"""What harm to do and when: faults as plain values, and packages that draw them."""
