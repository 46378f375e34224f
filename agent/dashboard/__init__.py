"""`meshnode dashboard`: a page about the mesh, served to the person who started it.

`data` asks agents and waypoints and sums up, `server` is the small web server, `page/` is what the
browser gets: plain HTML, CSS and modules, without a build step and without foreign parts.
"""
