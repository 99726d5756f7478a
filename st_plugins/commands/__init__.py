"""The command ``st-plugins``: one file per subcommand, and :mod:`~st_plugins.commands.program`, which joins them."""
