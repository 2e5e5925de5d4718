"""The report's figures: one definition each, for paper and for the page. Statistics come with the comparison."""

from analysis.figures.curves import curve_pictures
from analysis.figures.density import density_picture
from analysis.figures.frontier import frontier_pictures
from analysis.figures.geometry import geometry_pictures
from analysis.figures.heatmaps import correlation_picture, similarity_picture
from analysis.figures.layers import layer_pictures
from analysis.figures.radar import radar_picture

__all__ = [
    "correlation_picture",
    "curve_pictures",
    "density_picture",
    "frontier_pictures",
    "geometry_pictures",
    "layer_pictures",
    "radar_picture",
    "similarity_picture",
]
